"""What is drawn again until enough is kept: as many as are asked for, and an end where nothing ever is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks.redrawn import redrawn


@given(n=st.integers(1, 40), modulus=st.integers(1, 7), ahead=st.integers(1, 3))
def test_as_many_as_are_asked_for_and_all_of_them_kept(n, modulus, ahead):
    drawn = iter(range(10**6))

    def draw(missing):
        rows = torch.tensor([[next(drawn)] for _ in range(ahead * missing)])
        return rows[rows[:, 0] % modulus == 0], len(rows)

    kept = redrawn(n, draw, "never")
    assert kept.shape == (n, 1)
    assert not (kept % modulus).any()
    assert (kept[1:] > kept[:-1]).all()


def test_where_nothing_is_ever_kept_it_is_said():
    with pytest.raises(ConfigError, match="no such row"):
        redrawn(3, lambda missing: (torch.empty(0, 1, dtype=torch.long), missing), "no such row: ask for another")
