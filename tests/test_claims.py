"""The claim scripts' own arithmetic, against cases by hand, synthetic data and a compiled circuit."""

import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

ANALYSES = Path(__file__).parent.parent / "analyses"
sys.path.append(str(ANALYSES))

import assumption  # noqa: E402
import claims  # noqa: E402

from stackheads.processes import worker_pool  # noqa: E402
from stackheads.programs.compiler import compile_layers  # noqa: E402
from stackheads.programs.mechanisms import doubling  # noqa: E402
from stackheads.programs.program import lower  # noqa: E402
from stackheads.sweeps.plans import Plan  # noqa: E402
from stackheads.tasks import Retrieval  # noqa: E402
from stackheads.types import Destination  # noqa: E402

curriculum, depth, mechanisms, context, dropping, emergence = map(
    import_module, ("curriculum", "depth", "mechanisms", "context", "dropping", "emergence")
)
TIMES = st.lists(st.one_of(st.none(), st.integers(1, 9)), min_size=1)


@given(TIMES, st.integers(0, 9))
def test_the_share_solved_is_what_is_not_waiting_any_more(times, step):
    """Kaplan and Meier's product over the steps at which runs are solved, none being lost before the end."""
    waiting = 1.0
    for at in range(1, step + 1):
        at_risk = [time for time in times if time is None or time >= at]
        solved = [time for time in at_risk if time == at]
        waiting *= 1 - len(solved) / len(at_risk) if at_risk else 1
    assert curriculum.solved_by(times, [step]) == [pytest.approx(1 - waiting)]


def test_a_median_is_missing_where_half_of_the_runs_never_get_there():
    assert claims.middle([1, 2, None]) == 2
    assert claims.middle([1, None, None]) is None
    assert claims.middle([1, 2, None, None]) is None


def synthetic(exponent, spread, last, seed=0):
    """Four runs for each number of symbols; those that would take longer than `last` steps are censored."""
    generator, rows = np.random.default_rng(seed), []
    for symbols in np.repeat([4, 6, 8, 10, 12, 16], 4):
        time = 10 * symbols**exponent * np.exp(spread * generator.normal())
        rows.append({"symbols": symbols, "steps": min(time, last), "time": time if time <= last else None})
    return pd.DataFrame(rows)


def test_an_exact_power_law_is_found_exactly():
    found = context.fit_table(synthetic(2.5, 0.0, np.inf))
    assert (found.slope, np.exp(found.intercept)) == pytest.approx((2.5, 10), rel=1e-3)


def test_censored_runs_do_not_bend_the_power_law():
    """Without the censored runs, or with them taken for runs that took as long, the exponent comes out too small."""
    table = pd.concat([synthetic(2.5, 0.3, 5000, seed) for seed in range(20)], ignore_index=True)
    assert 0.2 < table["time"].isna().mean() < 0.5
    naive = context.fit_table(table.assign(time=table["steps"])).slope
    assert context.fit_table(table).slope == pytest.approx(2.5, abs=0.1)
    assert naive < 2.3


def test_the_interval_holds_the_exponent():
    low, high = context.slope_interval(synthetic(2.0, 0.2, np.inf), draws=40)
    assert low < 2.0 < high < low + 0.6


def test_a_compiled_circuit_answers_what_its_depth_allows_and_nothing_else():
    """Doubling in three layers follows two hops; taken for a model of two layers it would violate the bound for hop 2."""
    task = Retrieval(chains=2, max_hops=2, attention_dir="causal")
    model, config = compile_layers(lower(doubling(2)), task, rotation_seed=0)
    whole, short = (depth.against_bounds(model, task, layers, examples=256) for layers in (config.layers, 2))
    assert {row["verdict"] for row in whole} == {"answered"}
    assert {(row["hop"], row["verdict"]) for row in short if row["destination"] == "query"} == {
        (1, "answered"),
        (2, "violation"),
    }


def test_confined_attention_leaves_a_compiled_circuit_as_it_is():
    """Its heads attend along links; what its last layer answers needs nothing else."""
    task = Retrieval(chains=2, max_hops=2, attention_dir="causal")
    model, config = compile_layers(lower(doubling(2)), task, rotation_seed=0)
    for layer in range(config.layers):
        assert min(assumption.confined(model, task, layer, examples=64).values()) == 1


def run_of(*snapshots, folder):
    """A run whose snapshots are these checkpoints."""
    for number, path in enumerate(snapshots, start=1):
        shutil.copytree(path, folder / f"step-{number:06d}", dirs_exist_ok=True)
    return claims.Run("sweep", Plan("cell", {}, {}, 1.0), folder, {"solved": True})


def never(*args, **settings):
    raise AssertionError("it is there already")


def test_an_analysis_is_kept_for_these_weights_and_examples(checkpoints, tmp_path, monkeypatch):
    """A run that was trained again has other weights at the same step."""
    run, kept = run_of(checkpoints / "known" / "chain-d1", folder=tmp_path / "run"), tmp_path / "kept"
    made = claims.kept_analysis(run, kept, 32)
    other = claims.kept_analysis(run_of(checkpoints / "known" / "chain-d1-five", folder=tmp_path / "run"), kept, 32)
    assert not other.labels.equals(made.labels)
    monkeypatch.setattr(claims, "analyze", never)
    again = run_of(checkpoints / "known" / "chain-d1", folder=tmp_path / "run")
    assert claims.kept_analysis(again, kept, 32).labels.equals(made.labels)
    with pytest.raises(AssertionError, match="there already"):
        claims.kept_analysis(again, kept, 33)


def test_selectors_and_steps_are_kept_for_these_weights(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(mechanisms, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(emergence, "KEPT", tmp_path / "steps")
    one, other = (checkpoints / "known" / name for name in ("chain-d1", "chain-d1-five"))
    run = run_of(one, one, folder=tmp_path / "run")
    found = claims.kept_analysis(run, tmp_path / "kept", 32)
    row, steps = mechanisms.kept_selectors(run, found), emergence.steps_of(run)
    monkeypatch.setattr(mechanisms, "selectors_row", never)
    monkeypatch.setattr(emergence, "emergence", never)
    assert (mechanisms.kept_selectors(run, found), emergence.steps_of(run)) == (row, steps)
    run = run_of(one, other, folder=tmp_path / "run")
    with pytest.raises(AssertionError, match="there already"):
        mechanisms.kept_selectors(run, found)
    with pytest.raises(AssertionError, match="there already"):
        emergence.steps_of(run)


def test_one_head_set_to_zero_costs_a_shipped_checkpoint_its_hops(checkpoints):
    """Its task has some of the destinations that there are, and each head of the first layer is needed."""
    run = claims.Run("sweep", Plan("cell", {}, {}, 1.0), checkpoints / "cycle-d4-l3", {})
    assert all(share < 0.5 for share in dropping.least_accuracy(run).values())


@pytest.mark.parametrize(
    ("allowed", "accuracy", "low", "expected"),
    [
        (True, 0.995, 0.98, "answered"),
        (True, 0.9, 0.88, "not learnt"),
        (False, 0.36, 0.32, "none"),
        (False, 0.5, 0.45, "order"),
        (False, 0.9, 0.88, "violation"),
    ],
)
def test_verdicts(allowed, accuracy, low, expected):
    assert depth.verdict(allowed, accuracy, low, guess=1 / 3, order=0.6) == expected


def test_the_order_guesser_on_two_chains_of_one_statement():
    """A query asks for one of two statements, a value slot's chain has ended: half of them are right in one layer."""
    assert assumption.order_guesses(Retrieval(chains=2, max_hops=1, attention_dir="causal")) == {
        (Destination.QUERY, 1, 1): pytest.approx(0.5)
    }


def test_the_order_guesser_is_never_worse_than_naming_a_symbol_of_the_right_level():
    task = Retrieval(chains=2, max_hops=3, attention_dir="causal")
    assert all(0.5 - 1e-9 <= share <= 1 for share in assumption.order_guesses(task).values())


def test_permutation_p_is_that_of_all_divisions():
    assert dropping.permutation_p([1, 2, 3, 4], [11, 12, 13, 14]) == pytest.approx(2 / 70)
    assert dropping.permutation_p([1, 2], [1, 2]) == pytest.approx(1)


def test_a_part_of_a_sweep_is_said_to_be_one():
    planned = claims.plans(claims.read_sweep(ANALYSES / "sweeps" / "context.yaml"))
    table = pd.DataFrame([{"sweep": "context", "cell": plan.name} for plan in planned])
    assert claims.coverage(context.CLAIM, table) == (True, f"{len(planned)} of {len(planned)} runs of context")
    whole, note = claims.coverage(context.CLAIM, table.iloc[:3])
    assert not whole
    assert note == f"3 of {len(planned)} runs of context (PARTIAL)"


def test_rows_of_runs_that_are_not_there_stay_where_they_were():
    old = pd.DataFrame({"sweep": ["s", "s", "t"], "cell": ["a", "b", "a"], "value": [1, 2, 3]})
    new = pd.DataFrame({"sweep": ["t", "s", "t"], "cell": ["c", "b", "a"], "value": [6, 4, 5], "more": [True, True, True]})
    found = claims.beside(new, old)
    assert found[["sweep", "cell", "value"]].values.tolist() == [["s", "a", 1], ["s", "b", 4], ["t", "a", 5], ["t", "c", 6]]
    assert found["more"].isna().tolist() == [True, False, False, False]


def test_runs_may_be_named_by_other_columns_whose_order_stays_and_whole_numbers_stay_whole():
    old = pd.DataFrame({"family": ["a", "b", "b"], "seed": [0, 0, 1], "states": [2.0, float("nan"), 3.0]})
    new = pd.DataFrame({"states": pd.array([4, None], dtype="Int64"), "seed": [1, 0], "family": ["b", "c"]})
    assert claims.beside(new, old, ("family", "seed")).to_csv(index=False).split() == [
        "family,seed,states",
        *("a,0,2", "b,0,", "b,1,4", "c,0,"),
    ]


def test_no_old_row_is_kept_of_a_run_that_was_measured_again_and_has_none():
    old = pd.DataFrame({"sweep": ["a"] * 3, "cell": ["x", "y", "y"], "value": [1, 2, 3]})
    new = pd.DataFrame({"sweep": ["a"], "cell": ["x"], "value": [4]})
    assert claims.beside(new, old, gone=[("a", "x"), ("a", "y")]).to_dict("list") == {
        "sweep": ["a"],
        "cell": ["x"],
        "value": [4],
    }


def test_shares_of_confirmed_cells():
    names = ["confirmed", "redundant", "opposing", "causal-unclassified", "pattern-only", "none"]
    solved = pd.DataFrame([[3, 0, 0, 3, 1, 5], [0, 0, 0, 0, 0, 12]], columns=names).assign(cells=12)
    of_all, of_active = mechanisms.shares(solved)
    assert of_all.tolist() == [0.25, 0]
    assert of_active.iloc[0] == 0.5
    assert np.isnan(of_active.iloc[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--results", "file"], "file"),
        (["--results", "/proc/new"], "an output must be writable"),
    ],
)
def test_a_mistake_is_a_line_before_the_work(arguments, says, tmp_path, monkeypatch):
    """Of a script that measures by itself; its work would leave a table."""

    def measure(runs, workers):
        with worker_pool(workers):
            return {"name": pd.DataFrame({"sweep": [], "cell": []})}

    def never(*what):
        raise AssertionError("there is nothing to tell")

    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["script", "--from-scratch", "--results", "new", *arguments])
    with pytest.raises(SystemExit, match=f"^error: .*{says}"):
        claims.main(claims.Claim("", "name", (), measure, never, never))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
@pytest.mark.parametrize("script", sorted(path.stem for path in ANALYSES.glob("*.py") if "=workers" in path.read_text()))
def test_a_number_of_workers_that_cannot_be_is_a_line(script, number, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script, "--workers", number])
    module = import_module(script)
    with pytest.raises(SystemExit) as caught:
        claims.main(context.CLAIM) if module is claims else module.main()
    assert caught.value.code == 2
    assert f"argument --workers: must be a whole number, at least 1, got '{number}'" in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted(path.stem for path in ANALYSES.glob("*.py")))
def test_scripts_can_be_imported(script):
    assert import_module(script).__doc__
