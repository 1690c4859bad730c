"""Parts of a long computation, kept in a folder as they are done, so that it goes on where it was interrupted.

A part is a list of plain rows in a file of its own. What the parts belong to stands beside them: settings, and a digest of this
package's source and of the files that the parts are about. A folder of anything else is refused, and so is a file that is
damaged.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stackheads.errors import ConfigError
from stackheads.files import check_folder, read_json, write_json

SETTINGS = "settings.json"
CURE = "remove the file, and it is made again"

Rows = list[dict[str, Any]]


def keeping(folder: Path, settings: Mapping[str, Any], about: Path | None = None) -> None:
    """Make a folder for the parts of what has these settings, or find it; they are about the files in the folder `about`.

    Raises `ConfigError` if it holds something else, or parts that were made of other source or other files.
    """
    check_folder(folder, SETTINGS, [SETTINGS])
    path, source = folder / SETTINGS, Path(__file__).parent.parent
    made_of = {**settings, "source": digest(source, "*.py"), "files": None if about is None else digest(about, "*")}
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, made_of)
    elif (found := read_json(path, CURE)) != made_of:
        differs = ", ".join(name for name in made_of if found.get(name) != made_of[name])
        raise ConfigError(f"a folder goes on with the same settings, source and files, {folder} has other {differs}: empty it")


def digest(folder: Path, pattern: str) -> str:
    """A digest of all files in a folder of this name, of their paths and contents."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob(pattern) if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
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
