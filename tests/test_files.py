"""Whole files: outputs are refused before the work where they can't be written, and nothing is left of the trying."""

import errno
import os

import pytest

from stackheads.errors import CheckpointError, ConfigError
from stackheads.files import Stored, check_file, check_folder, checked, first_difference, read_json, write_folder, write_json


@pytest.fixture
def place(tmp_path):
    """A folder with a file, a folder, a link to nothing and a kind of folder."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "known.json").write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("kept")
    return tmp_path


def everything(folder):
    return {path: path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["file", "new", "new/deep/file", "folder/new"])
def test_a_file_that_can_be_written(place, name):
    before = everything(place)
    check_file(place / name)
    assert everything(place) == before
    write_json(place / name, {})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("folder", "is a folder: name a file in it"),
        ("link", "replaces nothing but a file"),
        ("file/under", r"file on the way to .*under is a file"),
        ("file/far/under", r"file on the way to .*under is a file"),
        ("n" * 300, "too long"),
        ("/proc/new.json", "must be writable, /proc/new.json is not"),
        ("/proc/deep/new.json", "must be writable"),
        ("/dev/null", "replaces nothing but a file, /dev/null is none"),
    ],
)
def test_a_file_that_can_not(place, name, says):
    before = everything(place)
    with pytest.raises(ConfigError, match=says) as caught:
        check_file(place / name)
    assert "\n" not in str(caught.value)
    assert everything(place) == before


@pytest.mark.parametrize("name", ["folder", "new", "new/deep", "mine"])
def test_a_folder_that_can_be_written(place, name):
    before = everything(place)
    check_folder(place / name, kind="known.json", files=["known.json", "more.csv"])
    assert everything(place) == before
    write_folder(place / name, lambda temporary: (temporary / "known.json").touch(), kind="known.json")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("file", "is a folder, .* is a file"),
        ("link", "is a folder, .* is a file"),
        ("file/under", "on the way to"),
        ("other", r"only replaced if it is empty or holds known\.json"),
        ("/proc/new", "must be writable"),
    ],
)
def test_a_folder_that_can_not(place, name, says):
    before = everything(place)
    with pytest.raises(ConfigError, match=says):
        check_folder(place / name, kind="known.json")
    assert everything(place) == before


def test_a_folder_in_the_place_of_a_file(place):
    (place / "mine" / "more.csv").mkdir()
    with pytest.raises(ConfigError, match=r"more\.csv is a folder"):
        check_folder(place / "mine", files=["known.json", "more.csv"])


def test_what_a_killed_write_left_is_nobodys(place):
    (place / "folder" / ".known.json-1a2b").write_text("half")
    check_folder(place / "folder", kind="known.json")


def test_a_full_disk_is_found_by_trying(place, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        check_file(place / "new")
    with pytest.raises(ConfigError, match="No space left"):
        check_folder(place / "new")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must be JSON"),
        (b"\xff\xfe\x00", "must be JSON"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": 1e999}', "1e999 is no number"),
        (b"[" * 100_000, "must be JSON"),
        (b"1" * 5000, "must be JSON"),
        (b"[]", "one JSON object, it holds a list"),
        (b"null", "one JSON object"),
        (b'{"format": 2}', "must have format 1, got 2: use the stackheads version that wrote it, or mend it"),
        (b"{}", "must have format 1, got None"),
    ],
)
def test_what_is_no_stored_object_is_one_line(tmp_path, content, says):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_json(path, "mend it", 1)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_in_its_place(tmp_path):
    with pytest.raises(CheckpointError, match="there is none: mend it"):
        read_json(tmp_path / "a.json", "mend it")
    with pytest.raises(CheckpointError, match="must be JSON"):
        read_json(tmp_path, "mend it")


def test_the_first_wrong_value_is_named(tmp_path):
    class Inner(Stored):
        number: int

    class Outer(Stored):
        inner: list[Inner]

    assert checked(Outer, {"inner": [{"number": 1, "more": "kept"}]}, tmp_path, "mend it").inner[0].number == 1
    for wrong, says in [("1", "got '1'"), (1.5, "got 1.5"), (None, "got None"), ([1] * 100, r"got \[1, 1, .*…: mend it$")]:
        with pytest.raises(CheckpointError, match=rf"damaged at inner\.0\.number: .*{says}"):
            checked(Outer, {"inner": [{"number": wrong}]}, tmp_path, "mend it")
    with pytest.raises(CheckpointError, match=r"damaged at inner\.0\.number: Field required, got none: mend it"):
        checked(Outer, {"inner": [{}]}, tmp_path, "mend it")


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"steps": 5, "lr": 1}, {"steps": 9, "lr": 1}, "training.steps = 5, got 9"),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "training.a.c = 2, got 3"),
        ({"a": 1}, {"a": 1, "b": 2}, "training.b = None, got 2"),
        ({"a": 1}, None, "training = {'a': 1}, got None"),
        ([1, 2], [1, 3], "training[1] = 2, got 3"),
        ({"seeds": [*range(99)]}, {"seeds": [*range(98)]}, "the number of training.seeds = 99, got 98"),
    ],
)
def test_the_first_setting_that_differs_is_named_by_its_path(before, after, found):
    assert first_difference(before, after, "training") == found
