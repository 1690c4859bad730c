"""Agreement measures by hand."""

from collections import Counter

import pandas as pd
import pytest

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.labelling.stability import kappa, layer_roles, multiset_jaccard


def labels(*rows):
    columns = ["head", "layer", "destination", "status", "role", "hop"]
    return pd.DataFrame(rows, columns=columns).astype({"hop": "Int64"})


ONE = labels(
    ("L0H0", 0, "value", "confirmed", "previous", None),
    ("L0H1", 0, "value", "none", None, None),
    ("L1H0", 1, "query", "confirmed", "hop", 1),
    ("L1H1", 1, "query", "none", None, None),
)
OTHER = labels(
    ("L0H0", 0, "value", "confirmed", "previous", None),
    ("L0H1", 0, "value", "none", None, None),
    ("L1H0", 1, "query", "confirmed", "hop", 2),
    ("L1H1", 1, "query", "none", None, None),
)


def test_kappa_by_hand():
    """3 of 4 agree; by chance 1/4 · 1/4 (previous) + 1/2 · 1/2 (none) = 5/16: (12/16 - 5/16) / (11/16) = 7/11."""
    assert kappa([ONE, ONE]) == 1
    assert kappa([ONE, OTHER]) == pytest.approx(7 / 11)
    assert kappa([ONE, ONE, OTHER]) == pytest.approx((1 + 7 / 11 + 7 / 11) / 3)


def test_kappa_needs_two_tables_of_the_same_cells():
    with pytest.raises(ConfigError, match="got 1: give two or more"):
        kappa([ONE])
    with pytest.raises(ConfigError, match=r"L\dH\d @\w+ is in some only"):
        kappa([ONE, ONE.iloc[1:]])


def test_multisets_ignore_head_numbers():
    swapped = ONE.assign(head=["L0H1", "L0H0", "L1H1", "L1H0"])
    assert layer_roles(swapped) == layer_roles(ONE) == Counter({(0, "value", "previous"): 1, (1, "query", "hop 1"): 1})
    assert multiset_jaccard(layer_roles(ONE), layer_roles(OTHER)) == pytest.approx(1 / 3)
    assert multiset_jaccard(Counter(), Counter()) == 1


def test_clear_labels_stay_under_resampling_and_none_have_no_index(checkpoints):
    clear = analyze(checkpoints / "cycle-d4-l3", examples=128, progress=False, explain=False)
    assert clear.bootstrap_jaccard > 0.95
    none = analyze(checkpoints / "cycle-d4-l4-final", examples=64, progress=False, explain=False)
    assert none.bootstrap_jaccard is None
