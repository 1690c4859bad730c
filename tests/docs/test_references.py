"""What README, docs/ and the code point at is there. (Links between pages of docs/ are checked by `make docs`.)"""

import re

import pytest
from docs.blocks import PAGES, ROOT, prose

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)")
CITED = re.compile(r"docs/((?:start|guides|method|results|api)[\w/-]*)(?:\.md)?(?:#([\w-]+))?")
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|csv|png|yaml|md))`")


def anchors(page):
    """The names of a page's places: those that it gives, and those of its headings."""
    text = page.read_text()
    given = re.findall(r"\{ ?#([\w-]+) ?\}", text)
    headings = [re.sub(r"[^\w -]", "", line.strip()).strip().lower() for line in re.findall(r"^#+ (.*)$", text, re.M)]
    return {*given, *(re.sub(r"[ -]+", "-", heading) for heading in headings)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(prose(page)):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    for name in FILE.findall(prose(page)):
        assert any((root / name).exists() for root in (ROOT, ROOT / "src" / "stackheads", page.parent)), name


def test_the_code_cites_places_that_exist():
    sources = [path for folder in ("src", "analyses", "tests") for path in (ROOT / folder).rglob("*.py")]
    for source in sources:
        for name, anchor in CITED.findall(source.read_text()):
            page = ROOT / "docs" / f"{name}.md"
            assert page.is_file(), f"{source.name} cites docs/{name}"
            assert not anchor or anchor in anchors(page), f"{source.name} cites docs/{name}#{anchor}"


def test_the_front_door_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_status_is_explained():
    from stackheads.types import Status

    for page in (ROOT / "README.md", ROOT / "docs" / "method" / "evidence.md"):
        rows = re.findall(r"^\| ([\w-]+) \|", page.read_text(), re.M)
        assert [str(status) for status in Status] == [row for row in rows if row in set(map(str, Status))]


def test_every_role_is_explained():
    from typing import get_args

    from stackheads.types import RoleName

    words = (ROOT / "docs" / "method" / "words.md").read_text()
    assert all(re.search(rf"\| `{name}(?: j)?` \|", words) for name in get_args(RoleName))


def test_every_public_name_and_verb_has_its_entry():
    import stackheads
    from stackheads.cli import app

    names, verbs = (ROOT / "docs" / "api" / "index.md").read_text(), (ROOT / "docs" / "api" / "commands.md").read_text()
    assert all(f"::: stackheads.{name}\n" in names or name == "tasks" for name in stackheads.__all__)
    assert all(f"`stackheads {command.callback.__name__}" in verbs for command in app.registered_commands)
