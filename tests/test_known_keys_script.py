"""Known walks over keys: what the script judges, and what it says of a table."""

import sys
from pathlib import Path

import pandas as pd

ANALYSES = Path(__file__).parent.parent / "analyses"
sys.path.insert(0, str(ANALYSES))

import known_keys  # noqa: E402

RIGHT = {"kind": "written", "circuit": "a", "noise": 0.0, "head": "L0H0", "destination": "key", "truth": "key 1"}
RIGHT |= {"true_status": "confirmed", "said": "key 1", "status": "confirmed", "right": True, "doubt": False}
NULL = RIGHT | {"kind": known_keys.NULL, "truth": None, "true_status": "none", "said": None, "status": "none", "right": False}


def table(*changes):
    """A hundred right cells and null heads, and these rows beside."""
    rows = [each | {"circuit": f"{number}"} for number in range(100) for each in (RIGHT, NULL)]
    return pd.DataFrame(rows + [each | {"circuit": f"more {number}"} for number, each in enumerate(changes)])


def test_every_bar_is_missed_by_what_breaks_it_and_by_nothing_else():
    wrong = RIGHT | {"right": False, "said": "hop 1"}
    lost = RIGHT | {"right": False, "status": "undecided"}
    silent = RIGHT | {"true_status": "pattern-only", "right": False}
    assert known_keys.missed_bars(table()) == []
    assert [bar.split()[0] for bar in known_keys.missed_bars(table(*[silent] * 3))] == ["precision"]
    assert [bar.split()[0] for bar in known_keys.missed_bars(table(*[lost] * 6))] == ["recall"]
    assert [bar.split()[0] for bar in known_keys.missed_bars(table(*[wrong] * 6))] == ["precision", "recall"]
    assert [bar.split()[0] for bar in known_keys.missed_bars(table(*[NULL | {"status": "confirmed"}] * 2))] == ["null"]
    assert known_keys.missed_bars(table(*[each | {"doubt": True} for each in (wrong, lost, silent)] * 9)) == []
    assert "wrongly confirmed: 3" in known_keys.tell(table(*[silent] * 3))


def test_cases_differ_and_nulls_are_of_what_is_judged():
    cases = known_keys.cases()
    assert len({(kind, name, guise) for kind, name, guise in cases}) == len(cases) == 154
    assert {kind for kind, _, _ in cases} == {"written", "drawn", known_keys.NULL}


def test_one_circuit_is_judged_as_the_committed_table_says():
    kind, name, guise = known_keys.cases()[0]
    rows = pd.DataFrame(known_keys.judged(kind, name, guise))
    stored = pd.read_csv(known_keys.PATH)
    same = stored[(stored["circuit"] == name) & (stored["noise"] == guise.noise)].head(len(rows)).reset_index(drop=True)
    columns = ["head", "destination", "truth", "said", "status", "right"]
    pd.testing.assert_frame_equal(rows[columns].fillna("-"), same[columns].fillna("-"), check_dtype=False)
