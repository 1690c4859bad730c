"""Emergence in runs whose truth is known by construction, and in the shipped run."""

import json
from itertools import pairwise

import pandas as pd
import pytest
from constructed import EARLY, LATE, TASK, truth, write_run
from hypothesis import given
from hypothesis import strategies as st

from stackheads import Emergence, ModelConfig, analyze, emergence
from stackheads.errors import CheckpointError, ConfigError
from stackheads.labelling.cause import CARRYING
from stackheads.labelling.measure import Look, measure
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import status
from stackheads.models import build, load, save_checkpoint
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import OVER_KEYS
from stackheads.tables import records
from stackheads.tasks import Cycle, KHopInduction
from stackheads.timeline.emergence import Followed, emergence_step, followed, run_snapshots, step_row
from stackheads.timeline.result import OTHER_ROLE, SYMBOLS
from stackheads.types import Destination, HeadId, Role
from stackheads.validation.drawn import separately


@pytest.fixture(scope="module")
def constructed(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("run"), "untrained", "first", "whole", "whole")
    return emergence(run, examples=256, progress=False)


@pytest.fixture(scope="module")
def shipped(checkpoints, tmp_path_factory):
    """Five of the shipped run's snapshots."""
    run = tmp_path_factory.mktemp("run")
    for step in SHIPPED:
        (run / f"step-{step:06d}").symlink_to(checkpoints / "cycle-d4-l4-run" / f"step-{step:06d}")
    return emergence(run, examples=256, progress=False)


SHIPPED = [400, 1600, 1800, 2000, 4000]


def steps_of(found):
    return {row["what"]: row for row in records(found.steps)}


def test_heads_and_hops_emerge_where_they_were_put_in(constructed):
    assert constructed.order == [{"hop 1", *EARLY}, {"hop 2", LATE}]
    rows = steps_of(constructed)
    for what in ("hop 1", *EARLY):
        assert (rows[what]["step"], rows[what]["low"], rows[what]["high"]) == (200, 100, 200)
    for what in ("hop 2", LATE):
        assert (rows[what]["step"], rows[what]["low"], rows[what]["high"]) == (300, 200, 300)
    assert constructed.passing == []


def test_at_every_snapshot_a_cell_has_the_status_that_it_was_built_to_have(constructed):
    for row in records(constructed.heads):
        if row["step"] > 100:
            built = truth("first" if row["step"] < 300 else "whole")[HeadId.parse(row["head"]), Destination(row["destination"])]
            assert row["status"] == built.status
            assert built.role == Role(row["role"], row["hop"])
            assert row["pattern"] > 0.95
        else:
            assert row["status"] in ("none", OTHER_ROLE)
            assert row["effect"] is None
            assert row["pattern"] < 0.5
    late = constructed.heads[(constructed.heads["head"] == "L2H0") & (constructed.heads["step"] == 200)]
    assert late["status"].item() == "pattern-only"
    assert abs(late["effect"].item()) < 0.02


def test_clear_cases_emerge_at_the_same_step_on_every_resampling(constructed):
    for row in records(constructed.steps):
        assert (row["boot_low"], row["boot_high"], row["boot_share"]) == (row["step"], row["step"], 1.0)


def test_a_close_case_has_a_wide_interval(constructed, tmp_path):
    """At the threshold itself about half of the resamplings are below it, so that the step is the next one there."""
    threshold = float(constructed.accuracy.loc[200, 2])
    run = write_run(tmp_path, "first", "whole")
    close = emergence(run, examples=256, progress=False, thresholds=Thresholds(emerged_accuracy=threshold))
    row = steps_of(close)["hop 2"]
    assert (row["step"], row["low"], row["boot_low"], row["boot_high"]) == (100, 0, 100, 200)
    assert row["boot_share"] == 1


def test_a_head_that_comes_and_goes_has_no_step_and_is_said_to_be_gone(tmp_path):
    gone = emergence(write_run(tmp_path, "whole", "whole", "first"), 64, progress=False)
    assert gone.passing == [LATE]
    row = steps_of(gone)[LATE]
    assert (row["step"], row["first"], row["last"], row["boot_share"]) == (None, 100, 200, 0)
    assert steps_of(gone)["hop 2"]["step"] is None
    assert gone.order == [{"hop 1", *EARLY}]


def test_followed_are_the_last_and_those_seen_twice_in_a_row():
    one, two, last = (Followed(HeadId(1, number), Destination.QUERY, Role("hop", 1)) for number in range(3))
    assert followed([{two, one}, {two}, set(), {one}, {last}]) == [two, last]


def test_a_run_in_which_nothing_emerges(tmp_path):
    nothing = emergence(write_run(tmp_path / "run", "untrained", "untrained"), 32, progress=False)
    assert nothing.order == []
    assert nothing.table.shape == (2, 0)
    assert [row["step"] for row in records(nothing.steps)] == [None, None]
    nothing.save(tmp_path / "out")
    pd.testing.assert_frame_equal(Emergence.load(tmp_path / "out").heads, nothing.heads)


def test_the_shipped_run_solves_its_hops_after_its_first_heads(shipped):
    assert shipped.snapshots == SHIPPED
    rows = steps_of(shipped)
    first_hop = min(rows[f"hop {hop}"]["step"] for hop in range(1, 5))
    layers = [min(row["step"] for row in rows.values() if row["step"] and row["layer"] == layer) for layer in range(4)]
    assert layers == sorted(layers)
    assert layers[0] < first_hop
    assert shipped.accuracy.loc[400].max() < 0.4


def test_the_last_snapshot_is_labelled_as_analyze_labels_it(shipped, checkpoints):
    """The run folder means its last snapshot to `analyze`: same seed and examples, same confirmed cells and numbers."""
    analysis = analyze(checkpoints / "cycle-d4-l4-run", examples=256, progress=False, explain=False)
    columns = ["head", "destination", "role", "hop", "status", "pattern", "effect"]
    expected = analysis.labels[analysis.labels["status"] == "confirmed"][columns]
    last = shipped.heads[(shipped.heads["step"] == 4000) & (shipped.heads["status"] == "confirmed")][columns]
    key = ["head", "destination"]
    left, right = (frame.sort_values(key).reset_index(drop=True) for frame in (last, expected))
    pd.testing.assert_frame_equal(left, right, check_dtype=False)
    assert shipped.accuracy.loc[4000].to_dict() == analysis.accuracy


def test_every_snapshot_is_labelled_as_it_is_alone(shipped, checkpoints):
    """Whatever snapshots share and leave out: the cells that are followed have the status and effect that they have alone."""
    for step in (400, 1600):
        checkpoint = load(checkpoints / "cycle-d4-l4-run" / f"step-{step:06d}")
        look = Look(256, 0, gates=False, methods=CARRYING)
        evidence, _ = measure(checkpoint.model, checkpoint.task, look, shipped.thresholds)
        alone = {(str(item.head), str(item.destination)): item for item in evidence}
        for row in records(shipped.heads[shipped.heads["step"] == step]):
            item = alone[row["head"], row["destination"]]
            assert row["pattern"] == pytest.approx(item.pattern.masses[Role(row["role"], row["hop"])], abs=1e-5)
            if row["status"] != OTHER_ROLE:
                assert row["status"] == status(item, shipped.thresholds)
            if len(item.cause.effects):
                number = [str(readout) for readout in item.cause.readouts].index(row["readout"])
                assert row["effect"] == pytest.approx(item.cause.effects.at(number).value, abs=1e-5)
            else:
                assert row["effect"] is None


def test_the_table_holds_the_symbols_of_the_statuses(shipped):
    names = [row["what"] for row in records(shipped.steps) if row["kind"] == "head"]
    assert list(shipped.table.columns) == names
    for row in records(shipped.heads):
        role = Role(row["role"], row["hop"])
        assert shipped.table.loc[row["step"], f"{row['head']} @{row['destination']} {role}"] == SYMBOLS[row["status"]]


def test_what_is_saved_is_loaded_and_other_files_stay(shipped, tmp_path):
    (tmp_path / "mine").write_text("stays")
    shipped.save(tmp_path)
    loaded = Emergence.load(tmp_path)
    assert loaded.to_dict() == shipped.to_dict()
    for name in ("accuracy", "heads", "steps", "table"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(shipped, name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.csv", "emergence.json", "heads.csv", "mine"]
    accuracy = pd.read_csv(tmp_path / "accuracy.csv", index_col="step")
    assert accuracy.to_numpy().tolist() == shipped.accuracy.to_numpy().tolist()
    assert len(pd.read_csv(tmp_path / "heads.csv")) == len(shipped.heads)
    content = json.loads((tmp_path / "emergence.json").read_text())
    (tmp_path / "emergence.json").write_text(json.dumps(content | {"format": 0}))
    with pytest.raises(CheckpointError, match="must have format 1, got 0"):
        Emergence.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"a saved emergence is a folder with emergence\.json"):
        Emergence.load(tmp_path / "nowhere")


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_emergence_step_is_the_least_step_after_which_it_always_holds(holds):
    steps = [7 * (number + 1) for number in range(len(holds))]
    least = min((step for number, step in enumerate(steps) if all(holds[number:])), default=None)
    assert emergence_step(holds, steps) == least
    row = step_row(holds, [], steps, 0.95)
    assert row["boot_low"] is row["boot_high"] is row["boot_share"] is None
    if least is not None:
        assert (row["low"], row["high"]) in pairwise([0, *steps])
        assert row["first"] <= least <= row["last"] == steps[-1]


def test_the_bootstrap_interval_leaves_out_two_and_a_half_percent_on_each_side():
    steps = [10, 20, 30]
    early, middle, late, never = [True] * 3, [False, True, True], [False, False, True], [False] * 3
    row = step_row(middle, [early] * 2 + [middle] * 96 + [late] * 2, steps, 0.95)
    assert (row["boot_low"], row["boot_high"], row["boot_share"]) == (20, 20, 1.0)
    row = step_row(middle, [early] * 3 + [middle] * 93 + [never] * 4, steps, 0.95)
    assert (row["boot_low"], row["boot_high"], row["boot_share"]) == (10, None, 0.96)


def test_what_is_no_run_is_refused_with_the_cure(checkpoints, tmp_path, cycle):
    write_run(tmp_path / "short", "whole")
    (tmp_path / "empty").mkdir()
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "run.json").write_text("{}")
    run = checkpoints / "cycle-d4-l4-run"
    for path, says in {
        tmp_path / "nowhere": "is nothing: check the path",
        run / "run.json": "is a file: check the path",
        tmp_path / "empty": "is no run folder: train with --snapshot-every",
        tmp_path / "fresh": "is a run without any: train with --snapshot-every",
        tmp_path / "short": "at least 2 snapshots, .*short has 1: train with --snapshot-every",
        checkpoints / "cycle-d4-l3": "is a single checkpoint: give a run folder, train with --snapshot-every",
        run / "step-002000": "is a single checkpoint: give its run folder .*cycle-d4-l4-run",
    }.items():
        with pytest.raises(CheckpointError, match=says):
            run_snapshots(path)
    with pytest.raises(ConfigError, match="at least 16 for an interval, got 3"):
        emergence(run, examples=3)
    with pytest.raises(ConfigError, match="between 0 and 100, got 101"):
        emergence(run, bootstraps=101)
    with pytest.raises(ConfigError, match=r"0, or 39 or more for intervals at a confidence of 0\.95, got 38: draw more"):
        emergence(run, bootstraps=38)


def test_snapshots_of_unlike_models_are_refused(tmp_path):
    run = write_run(tmp_path, "whole", "whole")
    config = ModelConfig(layers=1, heads=1, d_model=8)
    save_checkpoint(run / "step-000150", build(config, TASK), TASK, config)
    with pytest.raises(CheckpointError, match=r"share model and task, .*step-000150 has others"):
        emergence(run, examples=16, progress=False)


def test_walks_over_keys_are_followed_with_keys_as_sources(tmp_path):
    """And without, none of their heads at the query is."""
    task = Cycle(symbols=6, max_hops=2, supervision="chain", keys=True)
    made = separately(OVER_KEYS["one hop per layer"](2), task)
    model, config = compile_layers(made.layers, task, readouts=made.readouts)
    plain = task.model_copy(update={"keys": False})
    for step, each in ((100, build(config, plain, seed=1)), (200, model), (300, model)):
        save_checkpoint(tmp_path / "run" / f"step-{step:06d}", each, plain, config, {"seed": 0, "steps": 300})
    found = [emergence(tmp_path / "run", examples=256, bootstraps=0, progress=False, keys=keys) for keys in (True, False)]
    heads = [each.steps.query("kind == 'head'").set_index("what")["step"].to_dict() for each in found]
    assert heads[0] == {"L0H0 @key hop 1": 200, "L1H0 @query key 0": 200, "L2H0 @query key 1": 200}
    assert heads[1].keys() <= {"L1H0 @query duplicate"}
    assert found[0].task["keys"] is True
    assert "keys" not in found[1].task


def test_keys_of_a_task_without_are_refused(tmp_path):
    task = KHopInduction(max_hops=1, symbols=3, context=8)
    config = ModelConfig(layers=1, heads=1, d_model=16)
    for step in (1, 2):
        save_checkpoint(tmp_path / f"step-{step:06d}", build(config, task), task, config, {"seed": 0, "steps": 2})
    with pytest.raises(ConfigError, match="key slots are sources of a cycle or of retrieval, got"):
        emergence(tmp_path, keys=True)
