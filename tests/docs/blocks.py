"""The fenced blocks and the commands of README and docs/, as data.

A block is run as it stands, unless its title says why not: `title="takes …"` or `title="needs …"`. Readers see the title too.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "analyses" / "README.md", *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"python", "sh", "console", "yaml", "text"}
"""`text` is nothing that could be run: a part of an output, a layout."""
EXCUSES = ("takes ", "needs ")

FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
INFO = re.compile(r'(?P<language>\w+)(?: title="(?P<title>[^"]+)")?')
INLINE = re.compile(r"`(stackheads [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: the page it stands on, the line it begins at, its language, its title and what it says."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def runs(self) -> bool:
        return self.title is None or not self.title.startswith(EXCUSES)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page. Raises `AssertionError` for one whose first line is not understood."""
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        info = INFO.fullmatch(match["info"])
        assert info, f"{page.name}:{line}: a block begins with a language and at most a title, got {match['info']!r}"
        found.append(Block(str(page.relative_to(ROOT)), line, info["language"], info["title"], match["text"]))
    return found


def every_block(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text())


def inline_commands() -> list[str]:
    """Commands in running text: what may be left out is in square brackets, alternatives are parted by a bar."""
    found = {" ".join(command.split()) for page in PAGES for command in INLINE.findall(prose(page).replace("\\|", "|"))}
    return sorted(re.sub(r"\|\S+", "", command.replace("[", "").replace("]", "")) for command in found)


def commands(shell: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    words: list[str] = []
    for line in _logical_lines(shell):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in lexer:
            if set(word) <= set("&;|"):
                yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words
        words = []


def _logical_lines(shell: str) -> Iterator[str]:
    """Lines, where a quoted newline does not end one."""
    kept = ""
    for line in shell.splitlines():
        kept = f"{kept}\n{line}" if kept else line
        if kept.count("'") % 2 == 0:
            yield kept
            kept = ""


def sessions(block: Block) -> list[tuple[str, str]]:
    """The commands of a `console` block, each with what it is said to print."""
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def with_checks(source: str) -> str:
    """The same Python, in which `expression  # literal` is checked to be equal to it."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if not isinstance(node, ast.Expr) or node.end_lineno != node.lineno:
            continue
        comment = lines[node.lineno - 1][node.end_col_offset :].strip().removeprefix("#").strip()
        try:
            ast.literal_eval(comment)
        except (SyntaxError, ValueError):
            continue
        expression = ast.get_source_segment(source, node.value)
        lines.insert(node.lineno, f"assert ({expression}) == ({comment}), ({expression})")
    return "\n".join(lines) + "\n"
