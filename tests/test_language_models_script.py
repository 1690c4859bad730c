"""The script of the language models: its correction for many sheets, and its table and figure from the CSV alone."""

from importlib import import_module

import pandas as pd
import pytest
import test_claims  # noqa: F401  (puts analyses/ on the path)
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

script = import_module("language_models")


def table(rights, questions=100):
    places = [(formulation, hops, shots) for shots in (0, 3) for formulation in script.FORMULATIONS for hops in script.HOPS]
    rows = [
        {
            "model": "tiny",
            "dtype": "float32",
            "formulation": formulation,
            "hops": hops,
            "shots": shots,
            "questions": questions,
            "right": right,
            "accuracy": right / questions,
            "low": right / questions / 2,
            "high": (1 + right / questions) / 2,
            "chance": 0.25,
        }
        for (formulation, hops, shots), right in zip(places, rights, strict=False)
    ]
    return pd.DataFrame(rows)


@given(st.lists(st.integers(20, 55), min_size=1, max_size=50))
def test_holm_rejects_the_longest_run_of_small_p(rights):
    """Holm (1979) in words: the k-th smallest of m p values is held against 5 % / (m + 1 - k), until one fails."""
    p = [binomtest(right, 100, 0.25, alternative="greater").pvalue for right in rights]
    adjusted, largest = {}, 0.0
    for rank, value in enumerate(sorted(p)):
        largest = max(largest, value * (len(p) - rank))
        adjusted.setdefault(value, largest)
    assert script.above_chance(table(rights)) == [adjusted[value] <= 0.05 for value in p]


@pytest.mark.parametrize(("sheets", "partial"), [(50, False), (20, True)])
def test_table_and_figure_say_what_is_there(sheets, partial):
    tables = {"language-models": table(([90, 30, 25, 20, 35] * 10)[:sheets])}
    told = script.tell(tables)
    assert ("PARTIAL" in told) == partial
    assert told.count("90.0\\*") == sheets // 5
    assert f"{sheets // 5} of {sheets} sheets" in told
    figure = script.draw(tables)
    assert [axes.get_title() for axes in figure.axes] == list(script.FORMULATIONS)
