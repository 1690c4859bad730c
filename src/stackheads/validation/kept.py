"""Parts of a long computation, kept in a folder as they are done, so that it goes on where it was interrupted.

A part is a list of plain rows in a file of its own. What the parts belong to, its settings, stands beside them: a folder of
other settings is refused, and so is a file that is damaged.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stackheads.errors import ConfigError
from stackheads.files import check_folder, read_json, write_json

SETTINGS = "settings.json"
CURE = "remove the file, and it is made again"

Rows = list[dict[str, Any]]


def keeping(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder for the parts of what has these settings, or find it. Raises `ConfigError` if it holds something else."""
    check_folder(folder, SETTINGS, [SETTINGS])
    path = folder / SETTINGS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(settings))
    elif (found := read_json(path, CURE)) != settings:
        raise ConfigError(
            f"a folder goes on with the same settings, {folder} has {found}, got {dict(settings)}: choose another"
        )


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
