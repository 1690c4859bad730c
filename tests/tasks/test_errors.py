"""Bad task settings are refused with a rule, the value and a cure."""

import pytest
import torch

from stackheads.errors import ConfigError, StackheadsError
from stackheads.tasks import Cycle, Retrieval, from_config


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Cycle(symbols=5, max_hops=4), "at least 6 symbols, got 5"),
        (lambda: Cycle(symbols=8, max_hops=0), "max_hops must be at least 1, got 0"),
        (lambda: Retrieval(chains=1, max_hops=3), "at least 2 chains, got 1"),
        (lambda: Retrieval(chains=2, max_hops=3, symbols=7), "need 8 symbols, got 7"),
        (
            lambda: from_config({"kind": "maze"}),
            "one of cycle, retrieval, conditional, khop, graph, automaton, cases, got 'maze'",
        ),
        (lambda: from_config({"kind": "cycle", "max_hops": 4}), "symbols"),
        (lambda: from_config({"kind": "cycle", "max_hops": 4, "symbols": "many"}), "got 'many'"),
        (lambda: Cycle(symbols=8, max_hops=4).sample(0, torch.Generator()), "at least 1, got 0"),
    ],
)
def test_settings_are_checked(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_counterfactual_needs_a_hop_of_the_chain():
    task = Cycle(symbols=8, max_hops=4)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match=r"in 1\.\.4, got 5"):
        task.counterfactual(batch, 5, torch.Generator())


def test_counterfactual_says_which_example_has_no_replacement():
    """Both statements of the queried chain come before the other chain, so nothing defined can replace link 1."""
    task = Retrieval(chains=2, max_hops=2)
    batch = task.batch(torch.tensor([[0, 1, 2, 0, 3, 4, 5, 3, 2]]))
    with pytest.raises(StackheadsError, match="example 0 has none for hop 1"):
        task.counterfactual(batch, 1, torch.Generator().manual_seed(0))
