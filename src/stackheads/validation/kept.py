"""What a long computation has found, kept, so that it goes on where it was interrupted.

What is kept belongs to settings, to this package's source and to the files that it is about: a model's weights, the recipe of
its training, the script that measured it. Two ways:

- parts in a folder (`keeping`, `kept`): a part is a list of plain rows in a file of its own, and what all belong to stands
  beside them. A folder of anything else is refused, and so is a file that is damaged;
- by name (`key`): what it belongs to is a part of its name, so that what is kept of anything else is not found.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stackheads.errors import ConfigError
from stackheads.files import check_folder, read_json, write_json

SETTINGS = "settings.json"
SOURCE = Path(__file__).parent.parent
CURE = "remove the file, and it is made again"

Rows = list[dict[str, Any]]


def keeping(folder: Path, settings: Mapping[str, Any], *about: Path) -> None:
    """Make a folder for the parts of what has these settings, or find it; they are about these files, or all in these folders.

    Raises `ConfigError` if it holds something else, or parts that were made of other source or other files.
    """
    check_folder(folder, SETTINGS, [SETTINGS])
    path, made_of = folder / SETTINGS, _made_of(settings, about)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, made_of)
    elif (found := read_json(path, CURE)) != made_of:
        differs = ", ".join(name for name in made_of if found.get(name) != made_of[name])
        raise ConfigError(f"a folder goes on with the same settings, source and files, {folder} has other {differs}: empty it")


def key(settings: Mapping[str, Any], *about: Path) -> str:
    """A part of a name for what has these settings and is about these files: another one if any of them, or the source, is."""
    return hashlib.sha256(json.dumps(_made_of(settings, about), sort_keys=True).encode()).hexdigest()[:16]


def _made_of(settings: Mapping[str, Any], about: Iterable[Path]) -> dict[str, Any]:
    return {**settings, "source": digest(SOURCE, "*.py"), "files": [digest(path) for path in about]}


def digest(path: Path, pattern: str = "*") -> str:
    """A digest of a file's content, or of all files in a folder of this name, of their paths and contents."""
    total = hashlib.sha256()
    for each in sorted(each for each in (path, *path.rglob(pattern)) if each.is_file()):
        total.update(str(each.relative_to(path)).encode() + b"\0" + hashlib.sha256(each.read_bytes()).digest())
    return total.hexdigest()


def kept(folder: Path | None, name: str, make: Callable[..., Rows], *arguments: Any) -> Rows:
    """The rows of one part: those in its file where it is there, or made and kept; only made without a folder.

    Raises `CheckpointError` for a file that is damaged.
    """
    if folder is None:
        return make(*arguments)
    path = folder / f"{name}.json"
    if not path.exists():
        write_json(path, {"rows": make(*arguments)})
    return read_json(path, CURE)["rows"]
