"""Whole files: outputs are refused before the work where they can't be written, and nothing is left of the trying."""

import errno
import os
import shutil
import signal
from pathlib import Path

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


KIND, BESIDE = "known.json", ("more.json",)


def put(text):
    def write(folder):
        (folder / KIND).write_text(text)
        (folder / "table.csv").write_text(text)

    return write


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def mine(tmp_path):
    """A folder of the kind, with what belongs to it and what is somebody's."""
    folder = tmp_path / "mine"
    write_folder(folder, put("old"), KIND)
    (folder / "more.json").write_text("old")
    (folder / "notes.txt").write_text("precious")
    (folder / "figures").mkdir()
    return folder


@pytest.mark.parametrize("name", [".", "../mine", "link", "inner/.."])
def test_a_folder_is_replaced_by_whatever_name_and_keeps_what_is_not_ours(mine, monkeypatch, name):
    monkeypatch.chdir(mine)
    (mine / "inner").mkdir()
    (mine / "link").symlink_to(mine)
    for each in (check_folder, lambda path, kind: write_folder(Path(path), put("new"), kind, BESIDE)):
        each(name, KIND)
    (mine / "inner").rmdir()
    (mine / "link").unlink()
    (mine / "figures").rmdir()
    assert texts(Path.cwd()) == texts(mine) == {KIND: "new", "table.csv": "new", "notes.txt": "precious"}


def test_a_folder_that_is_not_there_may_be_named_by_a_way_through_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(Path("new/../new"), put("new"), KIND)
    assert texts(tmp_path / "new") == {KIND: "new", "table.csv": "new"}


@pytest.mark.parametrize("how", [KeyboardInterrupt, OSError])
def test_a_write_that_ends_early_leaves_the_old_folder_or_the_new_one_whole(mine, monkeypatch, how):
    """Ended at each of the moves, and when what is old is deleted; the second Ctrl-C is the one that comes at once."""
    (mine / "figures").rmdir()
    old = texts(mine)
    ended = 0
    for moment in range(20):
        left = iter(range(moment))

        def until_then(real, left=left):
            def instead(*arguments, **options):
                done = real(*arguments, **options)
                if next(left, None) is None:
                    monkeypatch.undo()
                    raise how
                return done

            return instead

        monkeypatch.setattr(Path, "replace", until_then(Path.replace))
        monkeypatch.setattr(shutil, "rmtree", until_then(shutil.rmtree))
        try:
            write_folder(mine, put(f"new {moment}"), KIND, BESIDE)
        except how:
            ended += 1
        else:
            break
        finally:
            monkeypatch.undo()
        new = {KIND: f"new {moment}", "table.csv": f"new {moment}", "notes.txt": "precious"}
        found = {path.name: path.read_text() for path in mine.iterdir() if path.is_file()}
        assert found in (old, new)
        assert sorted(path.name for path in mine.parent.iterdir()) == ["mine"]
        old = found
    assert ended >= 5


def test_ctrl_c_waits_until_the_folders_are_exchanged(mine, monkeypatch):
    """A real signal between the moves: the new folder is there, and then `KeyboardInterrupt`."""
    (mine / "figures").rmdir()
    move = Path.replace

    def interrupted(path, target):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.undo()
        return move(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(mine, put("new"), KIND, BESIDE)
    assert texts(mine) == {KIND: "new", "table.csv": "new", "notes.txt": "precious"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
