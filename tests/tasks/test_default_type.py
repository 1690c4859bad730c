"""Examples and graphs are those of their seed, whatever torch's default type is."""

import pytest
import torch

from stackheads import tasks
from stackheads.tasks.causal_graph import draw_graph
from stackheads.tasks.depth_cases import SIZES

EVERY = (
    tasks.Cycle(symbols=6, max_hops=2, attention_dir="causal"),
    tasks.Retrieval(chains=2, max_hops=2, order="shuffled"),
    tasks.KHopInduction(max_hops=2, symbols=4, context=12),
    tasks.Conditional(symbols=6, max_hops=2),
    tasks.Binding(lines=6, constants=4),
    tasks.CausalGraph(graph="dag", context=6, in_degree=2, symbols=4),
    tasks.NearestNeighbour(symbols=6, pairs=3),
    tasks.Templates(symbols=8),
    tasks.DepthCases(case="reasoning", **SIZES["reasoning"]),
    tasks.Automaton(language="flip-flop", context=9),
)


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def drawn(task):
    generator = torch.Generator().manual_seed(3)
    batch = task.sample(20, generator)
    return batch, task.counterfactual(batch, 1, generator), generator.get_state()


SINGLE = [drawn(task) for task in EVERY]


@pytest.mark.parametrize("number", range(len(EVERY)), ids=[task.kind for task in EVERY])
def test_a_seed_draws_the_same_examples(number, doubles):
    for one, other in zip(SINGLE[number], drawn(EVERY[number]), strict=True):
        one, other = (each if isinstance(each, torch.Tensor) else each.tokens for each in (one, other))
        assert torch.equal(one, other)


GRAPHS = [draw_graph("dag", 12, 1, seed) for seed in range(20)]


def test_a_seed_draws_the_same_graph(doubles):
    assert [draw_graph("dag", 12, 1, seed) for seed in range(20)] == GRAPHS
