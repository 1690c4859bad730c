"""Writing so that a reader never sees half a file or half a folder: write beside, then rename."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stackheads.errors import ConfigError


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)` in the target's folder, then move the result into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented, atomically."""
    write_file(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def write_folder(path: Path, write: Callable[[Path], object], kind: str) -> None:
    """Call `write(temporary folder)`, then put it in the place of `path`.

    What is there is only replaced if it is empty or holds the file `kind`, by which folders of this kind are known. Raises
    `ConfigError` otherwise.
    """
    if path.exists() and not (path.is_dir() and ((path / kind).exists() or not any(path.iterdir()))):
        raise ConfigError(f"a folder is only replaced if it is empty or holds {kind}, {path} is another: choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        write(temporary)
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
