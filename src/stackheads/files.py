"""Reading and writing whole files: what is damaged is refused in a line, what can't be written is refused before the work.

A reader never sees half a file or half a folder: write beside, then rename.
"""

import contextlib
import itertools
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from stackheads.errors import CheckpointError, ConfigError, StackheadsError
from stackheads.interrupts import interrupts_wait

T = TypeVar("T", bound=BaseModel)


class Stored(BaseModel):
    """Base of what is stored as JSON: every value of its own type, numbers finite; further keys are kept."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


def read_json(path: Path, cure: str, version: int | None = None) -> dict[str, Any]:
    """The JSON object in a file, of this `format` if one is given.

    Raises `CheckpointError` if it can't be read, is no JSON (which has no NaN), no object, or of another format; `cure` says
    what to do then.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number, parse_float=_finite)
    except FileNotFoundError:
        raise CheckpointError(f"{path} must be a JSON file, there is none: {cure}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must be JSON, it is not ({_first_line(error)}): {cure}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold one JSON object, it holds a {type(content).__name__}: {cure}")
    if version is not None and content.get("format") != version:
        found = _short(content.get("format"))
        raise CheckpointError(
            f"{path} must have format {version}, got {found}: use the stackheads version that wrote it, or {cure}"
        )
    return content


def checked(shape: type[T], content: dict[str, Any], path: Path, cure: str) -> T:
    """What was read from a file as what it must be. Raises `CheckpointError` that names the first value which is not."""
    try:
        return shape.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        got = "none" if first["type"] == "missing" else _short(first["input"])
        raise CheckpointError(f"{path} is damaged at {where}: {first['msg']}, got {got}: {cure}") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def first_difference(before: Any, after: Any, where: str = "") -> str:
    """The first setting in which two stored objects differ, by its path, with both values: "training.steps = 5, got 9"."""
    if isinstance(before, dict) and isinstance(after, dict):
        old, new = cast(dict[str, Any], before), cast(dict[str, Any], after)
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                return first_difference(old.get(name), new.get(name), f"{where}.{name}".lstrip("."))
    if isinstance(before, list) and isinstance(after, list):
        olds, news = cast(list[Any], before), cast(list[Any], after)
        for number, (old, new) in enumerate(zip(olds, news, strict=False)):
            if old != new:
                return first_difference(old, new, f"{where}[{number}]")
        where, before, after = f"the number of {where}", len(olds), len(news)
    return f"{where} = {_short(before)}, got {_short(after)}"


def as_path(given: Any, wrong: type[StackheadsError] = CheckpointError) -> Path:
    """A path that was given by whoever calls. Raises `wrong` for what is none."""
    if not isinstance(given, (str, Path)):
        raise wrong(f"what is on disk is given by its path, got {type(given).__name__}: give a path")
    return Path(given)


def check_name(path: Path, wrong: type[StackheadsError] = CheckpointError) -> None:
    """Raise `wrong` for a path that is not UTF-8: no safetensors file can be there, and no JSON file can hold its name."""
    if not is_utf8(f"{path}{path.resolve().name}"):
        raise wrong(f"a model's files lie where the names of folders are UTF-8, got {str(path)!r}: rename the folder")


def is_utf8(text: str) -> bool:
    """Whether a text can be written: no part of it is a byte that was no character where it was read."""
    return text.encode("utf-8", "ignore") == text.encode("utf-8", "surrogatepass")


def check_file(path: Path | str) -> None:
    """Raise `ConfigError` if this file could not be written, before anything is computed for it. Nothing is left there."""
    target = as_path(path, ConfigError)
    if os.path.isdir(target):
        raise ConfigError(f"this output is a file, {path} is a folder: name a file in it")
    if _exists(target) and not os.path.isfile(target):
        raise ConfigError(f"an output replaces nothing but a file, {path} is none: name another file")
    _check_writable(target.parent, path)


def check_folder(path: Path | str, kind: str | None = None, files: Sequence[str] = ()) -> None:
    """Raise `ConfigError` if a folder with these files could not be written. Nothing is left there.

    `kind` is the file by which folders of this kind are known: a folder without it must be empty then.
    """
    folder = as_path(path, ConfigError)
    if _exists(folder) and not os.path.isdir(folder):
        raise ConfigError(f"this output is a folder, {path} is a file: choose another place")
    if kind is not None:
        _check_kind(folder, kind)
    for name in files:
        if os.path.isdir(folder / name):
            raise ConfigError(f"an output replaces nothing but a file, {folder / name} is a folder: choose another place")
    _check_writable(folder, path)


def check_apart(files: Mapping[str, Sequence[Path]]) -> None:
    """Raise `ConfigError` if two of these names stand for files that are one, or of which one would have to be a folder."""
    real = {name: [path.resolve() for path in paths] for name, paths in files.items()}
    for (one, ours), (other, theirs) in itertools.permutations(real.items(), 2):
        taken = {folder for path in theirs for folder in (path, *path.parents)}
        if both := [path for path in ours if path in taken]:
            raise ConfigError(f"outputs need places of their own, {both[0]} is for {one} and for {other}: choose another")


def _check_kind(folder: Path, kind: str) -> None:
    if holds_other(folder, kind):
        raise ConfigError(
            f"a folder is only replaced if it is empty or holds {kind}, {folder} is another: choose another place"
        )


def holds_other(folder: Path, kind: str) -> bool:
    """Whether a folder holds something, and not the file `kind`. What a killed write left beside it does not count."""
    if not _exists(folder) or _exists(folder / kind):
        return False
    return not os.path.isdir(folder) or any(not path.name.startswith(f".{kind}-") for path in folder.iterdir())


def _exists(path: Path) -> bool:
    """Whether something is there, be it a link to nothing."""
    return os.path.lexists(path)


def _check_writable(folder: Path, path: Path | str) -> None:
    """Try it, since permissions do not tell: in the nearest folder that is there a file is made, filled and removed."""
    nearest = next(each for each in (folder, *folder.absolute().parents) if _exists(each))
    if not os.path.isdir(nearest):
        raise ConfigError(f"an output needs a folder, {nearest} on the way to {path} is a file: choose another place")
    try:
        if not _exists(Path(path)):
            _refuse_name(Path(path))
        with tempfile.TemporaryFile(dir=nearest) as handle:
            handle.write(bytes(4096))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        why = error.strerror or _first_line(error)
        raise ConfigError(f"an output must be writable, {path} is not ({why}): choose another place") from None


def _refuse_name(path: Path) -> None:
    """Raise the `OSError` of a name that can't be, like one that is too long."""
    with contextlib.suppress(FileNotFoundError):
        path.lstat()


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
    write_file(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))


def write_folder(path: Path, write: Callable[[Path], object], kind: str, beside: Sequence[str] = ()) -> None:
    """Call `write(temporary folder)`, then put what it made into `path`; other files that are there stay.

    What is there is only replaced if it is empty or holds the file `kind`, by which folders of this kind are known: files of
    the same names, and those named in `beside`, which belong to what is replaced. A folder that is there stays the same one, so
    that it may be a link, or where somebody stands. However it ends, the old files or the new ones are there, whole; killed by
    force at the one moment in between, the old ones lie in a folder `.kind-…` in it, and a reader finds no file `kind`.

    Raises `ConfigError` if a folder of another kind is there.
    """
    path = path.resolve()
    _check_kind(path, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.exists()
    temporary = _temporary(path if there else path.parent, kind)
    try:
        new = temporary / "new"
        new.mkdir()
        write(new)
        if there:
            _exchange(path, new, kind, beside)
        else:
            new.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def drop_folder(path: Path) -> None:
    """Remove a folder that a reader sees whole until it is gone."""
    away = _temporary(path.parent, path.name)
    path.replace(away / "old")
    shutil.rmtree(away, ignore_errors=True)


def _temporary(folder: Path, kind: str) -> Path:
    return Path(tempfile.mkdtemp(dir=folder, prefix=f".{kind}-"))


def _exchange(folder: Path, new: Path, kind: str, beside: Sequence[str]) -> None:
    """Move the folder's files of these names away and the new ones in, `kind` first out and last in; or leave all as it was."""
    old = _temporary(folder, kind)
    names = sorted((path.name for path in new.iterdir()), key=lambda name: name == kind)
    leaving = [name for name in dict.fromkeys([kind, *names, *beside]) if _exists(folder / name)]
    moves = [(folder / name, old / name) for name in leaving] + [(new / name, folder / name) for name in names]
    with interrupts_wait():
        try:
            for before, after in moves:
                before.replace(after)
        except BaseException:
            for before, after in reversed(moves):
                if _exists(after) and not _exists(before):
                    after.replace(before)
            old.rmdir()
            raise
        shutil.rmtree(old, ignore_errors=True)
