"""How each model with a known circuit is made: its task, the steps and who has them, sizes and training (`train_known.py`)."""

from dataclasses import dataclass, replace

from stackheads.models import ModelConfig
from stackheads.tasks import Cycle, KHopInduction, Retrieval
from stackheads.training.config import TrainingConfig
from stackheads.validation.assigned import Assigned, assign, strings, walk
from stackheads.validation.guided import Guide


@dataclass(frozen=True)
class KnownRecipe:
    """All that makes a known model."""

    known: Assigned
    model: ModelConfig
    training: TrainingConfig
    guide: Guide | None = None


def chain(hops: int, chains: int) -> Retrieval:
    return Retrieval(chains=chains, max_hops=hops, supervision="chain", attention_dir="causal")


def cycle(hops: int, symbols: int) -> Cycle:
    return Cycle(symbols=symbols, max_hops=hops)


def string(hops: int, context: int = 12, symbols: int = 4) -> KHopInduction:
    return KHopInduction(context=context, symbols=symbols, max_hops=hops)


CHAIN1, CHAIN1_THREE, CHAIN1_FIVE, CHAIN2 = chain(1, 4), chain(1, 3), chain(1, 5), chain(2, 3)
CYCLE1, CYCLE2, CYCLE2_SIX, CYCLE3 = cycle(1, 6), cycle(2, 5), cycle(2, 6), cycle(3, 7)
CHAIN3, CHAIN4 = chain(3, 3), chain(4, 2)
KHOP1, KHOP2, KHOP3 = string(1), string(2), string(3)
KHOP1_LONG, KHOP1_FIVE = string(1, context=16), string(1, context=14, symbols=5)
PATIENT = {"batch": 128, "lr": 2e-3, "weight_decay": 0.1}
"""Retrieval asks at one position of an example, from which larger batches and smaller steps learn more."""
LOOK, CARRY = Guide(until=500), Guide(until=1000, kind="carry")
"""Of the first third of 1,500 steps, the first half of 2,000: what is stored was then held up by interchanges alone."""


def recipe(known: Assigned, steps: int, seed: int, mlps: bool = False, patient: bool = False) -> KnownRecipe:
    """A higher learning rate than for the other checkpoints, and weight decay: what carries nothing soon falls silent."""
    model = ModelConfig(layers=known.n_layers, heads=known.n_heads, attn_only=not mlps)
    training = PATIENT if patient else {"batch": 64, "lr": 5e-3, "weight_decay": 0.2}
    return KnownRecipe(known, model, TrainingConfig(steps=steps, seed=seed, **training))


def guided(known: Assigned, seed: int, mlps: bool = False) -> KnownRecipe:
    """Patient, and heads are helped to look at first."""
    return replace(recipe(known, 1500, seed, mlps, patient=True), guide=LOOK)


def probed(known: Assigned, seed: int, steps: int = 2000, lr: float = PATIENT["lr"]) -> KnownRecipe:
    """Patient, and heads are helped to carry at first, wherever they look."""
    made = recipe(known, steps, seed, patient=True)
    return replace(made, training=made.training.model_copy(update={"lr": lr}), guide=CARRY)


RECIPES: dict[str, KnownRecipe] = {
    "cycle-d1": recipe(assign(CYCLE1, walk(CYCLE1), 10), 800, 10),
    "cycle-d1-two": recipe(assign(CYCLE1, walk(CYCLE1), 35, [1, 2]), 1300, 35),
    "cycle-d1-three": recipe(assign(CYCLE1, walk(CYCLE1), 11, [1, 3]), 1300, 11),
    "cycle-d2": recipe(assign(CYCLE2, walk(CYCLE2), 1), 2000, 1),
    "cycle-d2-mlp": recipe(assign(CYCLE2, walk(CYCLE2), 14), 1800, 14, mlps=True),
    "chain-d1": recipe(assign(CHAIN1, walk(CHAIN1), 4), 800, 4),
    "chain-d1-two": recipe(assign(CHAIN1, walk(CHAIN1), 26, [1, 2]), 1500, 26, patient=True),
    "chain-d1-three": recipe(assign(CHAIN1_THREE, walk(CHAIN1_THREE), 44), 900, 44),
    "chain-d1-five": recipe(assign(CHAIN1_FIVE, walk(CHAIN1_FIVE), 40), 800, 40),
    "khop-k1": recipe(assign(KHOP1, strings(KHOP1), 2), 600, 2),
    "khop-k1-two": recipe(assign(KHOP1, strings(KHOP1), 3, [2, 2]), 1300, 3),
    "khop-k1-long": recipe(assign(KHOP1_LONG, strings(KHOP1_LONG), 43), 700, 43),
    "khop-k1-five": recipe(assign(KHOP1_FIVE, strings(KHOP1_FIVE), 41), 700, 41),
    "khop-k1-mlp": recipe(assign(KHOP1, strings(KHOP1), 5), 600, 5, mlps=True),
    "khop-k1-two-mlp": recipe(assign(KHOP1, strings(KHOP1), 38, [2, 2]), 1300, 38, mlps=True),
    "khop-k1-three-mlp": recipe(assign(KHOP1, strings(KHOP1), 9, [1, 3]), 1200, 9, mlps=True),
    "khop-k2-mlp": recipe(assign(KHOP2, strings(KHOP2), 7, choosing=True), 700, 7, mlps=True),
    "khop-k2-two-mlp": recipe(assign(KHOP2, strings(KHOP2), 12, [1, 2, 2], choosing=True), 1000, 12, mlps=True),
}

GUIDED: dict[str, KnownRecipe] = {
    "chain-d2-guided": guided(assign(CHAIN2, walk(CHAIN2), 50), 50),
    "chain-d3-guided": guided(assign(CHAIN3, walk(CHAIN3), 51), 51),
    "chain-d4-guided": guided(assign(CHAIN4, walk(CHAIN4), 52), 52),
    "cycle-d3-guided": guided(assign(CYCLE3, walk(CYCLE3), 53), 53),
    "khop-k3-mlp-guided": guided(assign(KHOP3, strings(KHOP3), 54, choosing=True), 54, mlps=True),
    "chain-d3-two-guided": guided(assign(CHAIN3, walk(CHAIN3), 55, [1, 2, 1, 1]), 55),
    "khop-k3-two-mlp-guided": guided(assign(KHOP3, strings(KHOP3), 56, [1, 2, 1, 1], choosing=True), 56, mlps=True),
}
"""Deeper ones, of four and five layers but for the first: what was tried without a guide stays on the plateau (`SHORT`)."""
RECIPES |= GUIDED

SHORT: dict[str, KnownRecipe] = {
    "chain-d2": recipe(assign(CHAIN2, walk(CHAIN2), 28), 2600, 28, patient=True),
    "cycle-d1-mlp": recipe(assign(CYCLE1, walk(CYCLE1), 39), 900, 39, mlps=True),
    "cycle-d1-two-mlp": recipe(assign(CYCLE1, walk(CYCLE1), 17, [1, 2]), 1200, 17, mlps=True),
    "cycle-d2-two": recipe(assign(CYCLE2, walk(CYCLE2), 21, [1, 2, 1]), 2000, 21),
    "cycle-d2-six": recipe(assign(CYCLE2_SIX, walk(CYCLE2_SIX), 42), 2000, 42),
    "cycle-d3": recipe(assign(CYCLE3, walk(CYCLE3), 25), 2000, 25),
    "khop-k1-three": recipe(assign(KHOP1, strings(KHOP1), 36, [2, 3]), 1300, 36),
    "khop-k3-mlp": recipe(assign(KHOP3, strings(KHOP3), 16, choosing=True), 800, 16, mlps=True),
    "chain-d2-probed": probed(assign(CHAIN2, walk(CHAIN2), 60), 60),
    "cycle-d3-probed": probed(assign(CYCLE3, walk(CYCLE3), 61), 61),
    "cycle-d3-probed-longer": probed(assign(CYCLE3, walk(CYCLE3), 61), 61, steps=3000, lr=4e-3),
}
"""What was trained the same way and fell short of the bar, most of it on a plateau of training."""

UNSEEN = 2000
"""Added to the seeds of training: models that had no part in making the labeller, and are shipped too."""
UNSEEN_RECIPES = tuple(name for name, recipe in RECIPES.items() if recipe.model.attn_only and recipe.guide is None)
"""Those without MLPs, whose models are small, and without a guide."""
