"""Parts that are kept are made once, and only go on with what they belong to."""

import json

import pytest

from stackheads.errors import CheckpointError, ConfigError
from stackheads.validation import kept as keeper
from stackheads.validation.calibration import Judged, judged
from stackheads.validation.kept import SETTINGS, keeping, kept, key
from stackheads.validation.validate import _calibrated

ROWS = [{"circuit": "doubling", "right": True}, {"circuit": "tripling", "right": None}]


def never():
    raise AssertionError("it is there already")


def test_a_part_is_made_once(tmp_path):
    assert kept(tmp_path, "grid-0000", lambda: ROWS) == ROWS
    assert kept(tmp_path, "grid-0000", never) == ROWS
    assert kept(tmp_path, "grid-0001", lambda: ROWS[:1]) == ROWS[:1]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kept(None, "grid-0000", lambda: ROWS) == ROWS
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_is_refused(tmp_path):
    (tmp_path / "grid-0000.json").write_text('{"rows": [')
    with pytest.raises(CheckpointError, match="must be JSON"):
        kept(tmp_path, "grid-0000", never)


def test_a_folder_goes_on_with_the_same_settings_alone(tmp_path):
    folder = tmp_path / "validation"
    keeping(folder, {"quick": True, "seed": 0})
    keeping(folder, {"quick": True, "seed": 0})
    with pytest.raises(ConfigError, match="same settings"):
        keeping(folder, {"quick": True, "seed": 1})
    about = tmp_path / "models"
    about.mkdir()
    keeping(tmp_path / "about", {}, about)
    (about / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="other files"):
        keeping(tmp_path / "about", {}, about)
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | {"source": "of yesterday"}))
    with pytest.raises(ConfigError, match="other source"):
        keeping(folder, {"quick": True, "seed": 0})
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=SETTINGS):
        keeping(other, {"quick": True})
    assert not (other / SETTINGS).exists()


def test_a_name_is_another_for_other_settings_files_or_source(tmp_path, monkeypatch):
    recipe, weights, source = tmp_path / "recipes.py", tmp_path / "step-000010", tmp_path / "package"
    for path, text in ((recipe, "STEPS = 10"), (weights / "model.safetensors", "1.0"), (source / "measure.py", "pass")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(keeper, "SOURCE", source)
    names = [key({"examples": 64}, recipe, weights)]
    assert key({"examples": 64}, recipe, weights) == names[0]
    names.append(key({"examples": 65}, recipe, weights))
    for path, text in ((recipe, "STEPS = 20"), (weights / "model.safetensors", "2.0"), (source / "measure.py", "...")):
        path.write_text(text)
        names.append(key({"examples": 64}, recipe, weights))
    assert len(set(names)) == 5


def test_parts_of_another_recipe_are_refused(tmp_path):
    recipe = tmp_path / "recipes.py"
    recipe.write_text("STEPS = 10")
    keeping(tmp_path / "measured", {}, recipe)
    keeping(tmp_path / "measured", {}, recipe)
    recipe.write_text("STEPS = 20")
    with pytest.raises(ConfigError, match="other files"):
        keeping(tmp_path / "measured", {}, recipe)


def test_what_a_channel_answers_is_read_as_it_was_written():
    point = ("few", "doubling", 32, 0)
    rows = json.loads(json.dumps(_calibrated(*point)))
    assert [Judged.of(row) for row in rows] == judged(*point)
    assert {row["channel"] for row in rows} == {"pattern", "cause", "write"}
