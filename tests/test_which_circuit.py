"""Whether first weights or data decide a circuit: planted answers are found; p and intervals are what they are said to be."""

import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parent.parent / "analyses"))

import which_circuit as script


def grid(circuit, weights=8, data=4):
    """A run for each pair of seeds, its circuit a text that `circuit(seed, data_seed)` gives."""
    rows = [(seed, data_seed, circuit(seed, data_seed)) for seed, data_seed in product(range(weights), range(data))]
    return pd.DataFrame(rows, columns=["seed", "data_seed", "circuit"])


def drawn(*numbers, cells=4, of=10):
    """A circuit that these numbers decide: some of ten cells."""
    places = np.random.default_rng(numbers).choice(of, cells, replace=False)
    return "; ".join(sorted(f"L{place % 4}H{place % 2} value hop {place}" for place in places))


@pytest.mark.parametrize(
    ("circuit", "verdict"),
    [
        (lambda seed, data_seed: drawn(0, seed), "weights"),
        (lambda seed, data_seed: drawn(1, data_seed), "data"),
        (lambda seed, data_seed: drawn(seed, data_seed), "not decided"),
        (lambda seed, data_seed: "; ".join([drawn(0, seed), drawn(1, data_seed).replace("value", "query")]), "both"),
        (lambda seed, data_seed: "L0H0 value previous", "not decided"),
    ],
)
def test_what_was_planted_is_found(circuit, verdict):
    for way in script.WAYS:
        found = script.alike(grid(circuit), way)
        assert found.verdict == verdict
        assert found.pairs["kind"].value_counts().to_dict() == {"neither": 336, "data": 112, "weights": 48}


def test_runs_in_another_order_and_seeds_that_left_no_run_change_nothing():
    runs = grid(lambda seed, data_seed: drawn(seed, data_seed % 2)).drop(index=[3, 17])
    one = script.alike(runs.reset_index(drop=True), "head")
    other = script.alike(runs.sample(frac=1, random_state=1, ignore_index=True), "head")
    assert {name: one.mean(name) for name in script.KINDS} == pytest.approx({name: other.mean(name) for name in script.KINDS})
    for name, ends in one.intervals.items():
        assert ends == pytest.approx(other.intervals[name])


def test_p_is_that_of_all_exchanges():
    """Three seeds of the weights, two of the data: 36 ways to exchange the weights within the data, all of them counted."""
    runs = grid(lambda seed, data_seed: drawn(seed, data_seed, 3), weights=3, data=2)
    cells = {(seed, data_seed): script.circuit(text, "head") for seed, data_seed, text in runs.itertuples(index=False)}

    def gap(orders):
        values = {True: [], False: []}
        for one, other in product(range(3), range(3)):
            alike = script.jaccard(cells[orders[0][one], 0], cells[orders[1][other], 1])
            values[one == other].append(alike)
        return np.mean(values[True]) - np.mean(values[False])

    found = gap([(0, 1, 2)] * 2)
    expected = np.mean([gap(orders) >= found - 1e-12 for orders in product(permutations(range(3)), repeat=2)])
    assert script.alike(runs, "head").p["weights"] == pytest.approx(expected, abs=0.02)


def test_p_is_uniform_where_nothing_decides():
    ps = [script.alike(grid(lambda a, b, t=t: drawn(a, b, t), 4, 3), "head").p for t in range(100, 140)]
    for name in ("weights", "data"):
        values = np.sort([p[name] for p in ps])
        assert np.abs(values - np.arange(1, 41) / 40).max() < 1.63 / np.sqrt(40)  # Kolmogorov and Smirnov, 1 %


def test_the_bootstrap_is_that_of_runs_drawn_one_by_one():
    """The mean over a resampled grid, copies of a run never paired with themselves, against the weights by counts."""
    runs = grid(lambda seed, data_seed: drawn(seed % 3, data_seed), 4, 3)
    found = script.alike(runs, "head").intervals
    cells = {(seed, data_seed): script.circuit(text, "head") for seed, data_seed, text in runs.itertuples(index=False)}
    rng, means = np.random.default_rng(0), {name: [] for name in script.KINDS}
    for _ in range(400):
        seeds, data_seeds = rng.integers(4, size=4), rng.integers(3, size=3)
        values = {name: [] for name in script.KINDS}
        for seed, a, b in product(seeds, range(3), range(3)):
            if a < b and data_seeds[a] != data_seeds[b]:
                values["weights"].append(script.jaccard(cells[seed, data_seeds[a]], cells[seed, data_seeds[b]]))
        for data_seed, a, b in product(data_seeds, range(4), range(4)):
            if a < b and seeds[a] != seeds[b]:
                values["data"].append(script.jaccard(cells[seeds[a], data_seed], cells[seeds[b], data_seed]))
        for a, b, c, d in product(range(4), range(4), range(3), range(3)):
            if a < b and seeds[a] != seeds[b] and data_seeds[c] != data_seeds[d]:
                values["neither"].append(script.jaccard(cells[seeds[a], data_seeds[c]], cells[seeds[b], data_seeds[d]]))
        for name, each in values.items():
            if each:
                means[name].append(np.mean(each))
    for name, each in means.items():
        assert found[name] == pytest.approx(tuple(np.quantile(each, [0.025, 0.975])), abs=0.06)


def test_a_circuit_by_layer_does_not_care_how_heads_are_numbered():
    one, other = "L0H0 value previous; L1H1 query hop 1", "L0H1 value previous; L1H0 query hop 1"
    assert script.circuit(one, "layer") == script.circuit(other, "layer")
    assert script.jaccard(script.circuit(one, "head"), script.circuit(other, "head")) == 0
    assert script.circuit("L0H0 value previous; L0H1 value previous", "layer") == {("0", "value", "previous")}


def test_what_is_written_is_read_again_and_nothing_confirmed_is_empty():
    rows = [("L1H0", "query", "hop", 1, "confirmed"), ("L0H1", "value", "previous", None, "confirmed")]
    labels = pd.DataFrame([*rows, ("L0H0", "key", "hop", 2, "none")], columns=["head", "destination", "role", "hop", "status"])
    text = script.written(labels.astype({"hop": "Int64"}))
    assert script.circuit(text, "head") == {("L1H0", "query", "hop 1"), ("L0H1", "value", "previous")}
    assert script.circuit("", "head") == script.circuit(None, "layer") == frozenset()
    assert script.jaccard(frozenset(), frozenset()) is None
