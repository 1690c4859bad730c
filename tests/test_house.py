"""The rules that make rooms true, read off the syntax trees of the package (layers are import-linter's, in pyproject.toml)."""

import ast
import re
import tomllib
from pathlib import Path

import networkx as nx
import pytest

import stackheads

SOURCE = Path(stackheads.__file__).parent
ROOT = SOURCE.parent.parent
FILES = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
MODULES = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
LARGEST_ROOM = 0.18
WRITES_WEIGHTS = {SOURCE / "programs" / "compiler.py"}
"""A compiler writes a circuit into a model's weights: it must know their names."""


def room_of(path):
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else "top"


def imported(tree):
    """Every module of the package that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stackheads":
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "stackheads")


def words(tree):
    """Names, attributes and strings of a file, docstrings left out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    spoken = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield f".{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
            yield node.value


def test_no_module_imports_itself_by_way_of_others():
    graph = nx.DiGraph((name, other) for name, path in MODULES.items() for other in imported(FILES[path]) if other != name)
    assert [circle for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_no_import_is_excepted():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert [contract for contract in contracts if contract.get("ignore_imports")] == []
    listed = {name.strip() for contract in contracts for line in contract["layers"] for name in line.split("|")}
    rooms = {f"stackheads.{path.relative_to(SOURCE).parts[0].removesuffix('.py')}" for path in FILES} - {"stackheads.__init__"}
    assert rooms == listed, "every room stands in the list of layers"


def test_only_models_know_weights_and_hooks():
    known = re.compile(r"^\.W_[QKVOEU]$|^\.W_(pos|in|out)$|hook_(pattern|z|q|k|v|resid|attn|mlp|scale|embed)|blocks\.")
    found = {
        (path.relative_to(SOURCE).as_posix(), word)
        for path, tree in FILES.items()
        if room_of(path) != "models" and path not in WRITES_WEIGHTS
        for word in words(tree)
        if known.search(word)
    }
    assert found == set()


def test_only_models_import_transformer_lens():
    others = {
        path.relative_to(SOURCE).as_posix()
        for path, tree in FILES.items()
        if room_of(path) != "models"
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any("transformer_lens" in name for name in [getattr(node, "module", None) or "", *(a.name for a in node.names)])
    }
    assert others == set()


def test_no_room_holds_the_house():
    lines = {}
    for path in FILES:
        lines[room_of(path)] = lines.get(room_of(path), 0) + len(path.read_text().splitlines())
    total = sum(lines.values())
    assert {room: count / total for room, count in lines.items() if count / total > LARGEST_ROOM} == {}


@pytest.mark.parametrize("name", stackheads.__all__)
def test_public_names_import(name):
    assert getattr(stackheads, name) is not None
    assert name in dir(stackheads)


def test_a_room_does_not_hide_a_public_name():
    """A module of the package with a public name's own would take its place once it is imported."""
    assert not {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} & (set(stackheads.__all__) - {"tasks"})


POSIX_ONLY = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}


def test_no_import_fails_on_another_system():
    """Modules that Python has on POSIX alone are imported where they are used, and something stands in for them."""
    for path, tree in FILES.items():
        for node in tree.body:
            names = (
                [each.name for each in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            )
            found = {name.split(".")[0] for name in names} & POSIX_ONLY
            assert not found, f"{path.name} imports {found} as it is loaded"


def test_both_lines_of_transformer_lens_are_tested_with_the_same_versions():
    root = SOURCE.parent.parent
    mine, other = (
        [line for line in (root / name).read_text().splitlines() if line and not line.startswith("#")]
        for name in ("constraints.txt", "constraints-tl4.txt")
    )
    assert len(mine) == len(other)
    different = [(one, two) for one, two in zip(mine, other, strict=True) if one != two]
    assert [(one.split("==")[0], one.split("==")[1][0], two.split("==")[1][0]) for one, two in different] == [
        ("transformer-lens", "3", "4")
    ]


def test_what_is_drawn_does_not_hang_on_torch_s_default_type():
    """A seed that draws other examples in a session of doubles would make other tasks of the same settings."""
    drawn = ("torch.rand", "torch.randn")
    bare = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in drawn and "dtype" not in {key.arg for key in node.keywords}
    ]
    assert bare == []
