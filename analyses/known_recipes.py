"""How each model with a known circuit is made: its task, the steps and who has them, sizes and training (`train_known.py`)."""

from dataclasses import dataclass

from stackheads.models import ModelConfig
from stackheads.programs.mechanisms import doubling, one_hop_per_layer, tripling
from stackheads.tasks import Cycle, KHopInduction, Retrieval
from stackheads.training.config import TrainingConfig
from stackheads.validation.assigned import Assigned, assign, by_destination, statements, strings, walk


@dataclass(frozen=True)
class KnownRecipe:
    """All that makes a known model."""

    known: Assigned
    model: ModelConfig
    training: TrainingConfig


def chain(hops: int, chains: int = 3) -> Retrieval:
    return Retrieval(chains=chains, max_hops=hops, supervision="chain", attention_dir="causal")


def string(hops: int, context: int = 16) -> KHopInduction:
    return KHopInduction(context=context, symbols=4, max_hops=hops)


CHAIN1, CHAIN2, CHAIN3, CHAIN4 = chain(1, 4), chain(2), chain(3), chain(4, 2)
CYCLE2, CYCLE3, CYCLE4 = Cycle(symbols=6, max_hops=2), Cycle(symbols=8, max_hops=3), Cycle(symbols=8, max_hops=4)
ONE, TWO, THREE, FOUR = (statements(task, one_hop_per_layer(task.max_hops)) for task in (CHAIN1, CHAIN2, CHAIN3, CHAIN4))
DOUBLING = statements(CHAIN3, doubling(3))
KHOP1, KHOP2, KHOP3 = string(1), string(2), string(3, 20)


def recipe(known: Assigned, steps: int, seed: int, mlps: bool = False, batch: int = 64) -> KnownRecipe:
    model = ModelConfig(layers=known.n_layers, heads=known.n_heads, attn_only=not mlps)
    return KnownRecipe(known, model, TrainingConfig(steps=steps, batch=batch, lr=2e-3, seed=seed))


RECIPES: dict[str, KnownRecipe] = {
    "khop-k2-mlp": recipe(assign(KHOP2, strings(KHOP2), 1, choosing=True), 1000, 1, mlps=True, batch=128),
    "khop-k1": recipe(assign(KHOP1, strings(KHOP1), 3), 600, 3),
    "chain-d1": recipe(assign(CHAIN1, ONE, 8), 1500, 8),
    "chain-d2": recipe(assign(CHAIN2, TWO, 2), 2200, 2),
    "khop-k1-two": recipe(assign(KHOP1, strings(KHOP1), 4, [2, 2]), 800, 4),
    "chain-d2-two": recipe(assign(CHAIN2, TWO, 11, [1, 2, 2]), 2500, 11),
    "cycle-d2": recipe(assign(CYCLE2, walk(2), 17), 3000, 17),
    "chain-d3": recipe(assign(CHAIN3, THREE, 13), 2500, 13),
    "chain-d3-doubling": recipe(assign(CHAIN3, DOUBLING, 14), 2500, 14),
    "khop-k1-three-mlp": recipe(assign(KHOP1, strings(KHOP1), 5, [1, 3]), 800, 5, mlps=True),
    "khop-k2-two-mlp": recipe(assign(KHOP2, strings(KHOP2), 6, [1, 2, 2], choosing=True), 800, 6, mlps=True),
    "chain-d1-two-mlp": recipe(assign(CHAIN1, ONE, 9, [1, 2]), 1800, 9, mlps=True),
    "chain-d2-mlp": recipe(assign(CHAIN2, TWO, 10), 2200, 10, mlps=True),
    "chain-d2-three": recipe(assign(CHAIN2, TWO, 12, [1, 3, 1]), 2500, 12),
    "cycle-d4-tripling": recipe(assign(CYCLE4, statements(CYCLE4, tripling(4)), 21), 3500, 21),
    "cycle-d2-two": recipe(assign(CYCLE2, walk(2), 19, [1, 2, 1]), 3000, 19),
    "chain-d4": recipe(assign(CHAIN4, FOUR, 16), 2500, 16),
    "khop-k3-mlp": recipe(assign(KHOP3, strings(KHOP3), 7, choosing=True), 800, 7, mlps=True),
    "cycle-d2-mlp": recipe(assign(CYCLE2, walk(2), 18), 3000, 18, mlps=True),
    "chain-d3-doubling-apart-mlp": recipe(assign(CHAIN3, by_destination(DOUBLING), 15), 2500, 15, mlps=True),
    "cycle-d3": recipe(assign(CYCLE3, walk(3), 20), 3000, 20),
}
