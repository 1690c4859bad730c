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


def chain(hops: int, chains: int = 2) -> Retrieval:
    return Retrieval(chains=chains, max_hops=hops, supervision="chain", attention_dir="causal")


def string(hops: int) -> KHopInduction:
    return KHopInduction(context=12, symbols=4, max_hops=hops)


CHAIN1, CHAIN2, CHAIN3, CHAIN4 = chain(1, 4), chain(2), chain(3), chain(4)
CYCLE2, CYCLE3, CYCLE4 = Cycle(symbols=5, max_hops=2), Cycle(symbols=7, max_hops=3), Cycle(symbols=8, max_hops=4)
ONE, TWO, THREE, FOUR = (statements(task, one_hop_per_layer(task.max_hops)) for task in (CHAIN1, CHAIN2, CHAIN3, CHAIN4))
DOUBLING, TRIPLING = statements(CHAIN3, doubling(3)), statements(CYCLE4, tripling(4))
KHOP1, KHOP2, KHOP3 = string(1), string(2), string(3)


def recipe(known: Assigned, steps: int, seed: int, mlps: bool = False) -> KnownRecipe:
    """A higher learning rate and weight decay than for the other checkpoints: what carries nothing soon falls silent."""
    model = ModelConfig(layers=known.n_layers, heads=known.n_heads, attn_only=not mlps)
    return KnownRecipe(known, model, TrainingConfig(steps=steps, batch=64, lr=6e-3, weight_decay=1.0, seed=seed))


RECIPES: dict[str, KnownRecipe] = {
    "chain-d2": recipe(assign(CHAIN2, TWO, 4), 2000, 4),
    "cycle-d2": recipe(assign(CYCLE2, walk(2), 5), 2000, 5),
    "khop-k1": recipe(assign(KHOP1, strings(KHOP1), 1), 700, 1),
    "khop-k1-two": recipe(assign(KHOP1, strings(KHOP1), 7, [2, 2]), 1500, 7),
    "chain-d1": recipe(assign(CHAIN1, ONE, 3), 900, 3),
    "chain-d2-mlp": recipe(assign(CHAIN2, TWO, 6), 2000, 6, mlps=True),
    "chain-d2-two": recipe(assign(CHAIN2, TWO, 11, [1, 2, 2]), 2400, 11),
    "chain-d3": recipe(assign(CHAIN3, THREE, 9), 2200, 9),
    "chain-d3-doubling": recipe(assign(CHAIN3, DOUBLING, 12), 2200, 12),
    "cycle-d2-mlp": recipe(assign(CYCLE2, walk(2), 10), 2000, 10, mlps=True),
    "khop-k2-mlp": recipe(assign(KHOP2, strings(KHOP2), 2, choosing=True), 700, 2, mlps=True),
    "khop-k1-three-mlp": recipe(assign(KHOP1, strings(KHOP1), 8, [1, 3]), 1300, 8, mlps=True),
    "chain-d1-two-mlp": recipe(assign(CHAIN1, ONE, 14, [1, 2]), 1500, 14, mlps=True),
    "chain-d2-three": recipe(assign(CHAIN2, TWO, 15, [1, 3, 1]), 2400, 15),
    "cycle-d2-two": recipe(assign(CYCLE2, walk(2), 17, [1, 2, 1]), 2400, 17),
    "khop-k2-two-mlp": recipe(assign(KHOP2, strings(KHOP2), 13, [1, 2, 2], choosing=True), 1000, 13, mlps=True),
    "chain-d4": recipe(assign(CHAIN4, FOUR, 18), 2200, 18),
    "cycle-d4-tripling": recipe(assign(CYCLE4, TRIPLING, 16), 2600, 16),
    "khop-k3-mlp": recipe(assign(KHOP3, strings(KHOP3), 19, choosing=True), 800, 19, mlps=True),
    "chain-d3-doubling-apart-mlp": recipe(assign(CHAIN3, by_destination(DOUBLING), 20), 2200, 20, mlps=True),
    "cycle-d3": recipe(assign(CYCLE3, walk(3), 21), 2200, 21),
}
