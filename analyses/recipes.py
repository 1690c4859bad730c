"""How each shipped checkpoint is made: its task, sizes and training, and what it is for (`train_checkpoints.py`)."""

from dataclasses import dataclass
from typing import Literal

from stackheads.models import ModelConfig
from stackheads.tasks import (
    Automaton,
    CausalGraph,
    Conditional,
    Cycle,
    DepthCases,
    KHopInduction,
    NearestNeighbour,
    Retrieval,
    StoredTask,
    Templates,
)
from stackheads.tasks.causal_graph import GraphName
from stackheads.tasks.depth_cases import SIZES, Case
from stackheads.training.config import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """All that makes a checkpoint; `why` says what it is for. `then`: further runs, each from the weights of the one before."""

    task: StoredTask
    model: ModelConfig
    training: TrainingConfig
    why: str
    whole_run: bool = False
    then: tuple[TrainingConfig, ...] = ()


SHARP = {"entropy": 0.1, "loudness": 0.03}
"""Weights of the two terms that make circuits clean, from a step at which the task is solved (`training/sharpen.py`)."""


def cycle(symbols: int, hops: int, supervision: str = "dense") -> Cycle:
    return Cycle(symbols=symbols, max_hops=hops, supervision=supervision)


def chain(chains: int, hops: int, supervision: str = "dense") -> Retrieval:
    return Retrieval(chains=chains, max_hops=hops, supervision=supervision, attention_dir="causal")


def causal(
    graph: GraphName, in_degree: int = 1, seed: int = 0, steps: int = 2000, supervision: Literal["final", "dense"] = "final"
) -> Recipe:
    """Causal structure in two layers with as many heads each as a position has parents, the paper's construction; training seed
    and graph seed are one.
    """
    return Recipe(
        CausalGraph(
            context=20,
            symbols=8 if in_degree == 1 else 3,
            graph=graph,
            in_degree=in_degree,
            graph_seed=seed,
            supervision=supervision,
        ),
        ModelConfig(layers=2, heads=in_degree, d_head=32),
        TrainingConfig(steps=steps, lr=5e-3, seed=seed),
        "in-context causal structure: nothing but the graph, the rule of a sequence and the question at its end",
    )


LOOKED_AT = TrainingConfig(steps=2000, lr=5e-3, snapshots=(250, 500, 1000, 2000))
ONE_HEAD = (NearestNeighbour(), ModelConfig(layers=1, heads=1, d_head=32))
STATEMENTS = (NearestNeighbour(layout="statements", supervision="dense"), ModelConfig(layers=2, heads=1, d_head=32))
NEAREST: dict[str, tuple[NearestNeighbour, ModelConfig, TrainingConfig]] = {
    "pairs, 1 head": (*ONE_HEAD, LOOKED_AT),
    "pairs, 2 heads": (NearestNeighbour(), ModelConfig(layers=1, heads=2, d_head=32), LOOKED_AT),
    "statements": (*STATEMENTS, LOOKED_AT),
    "statements, longer": (*STATEMENTS, LOOKED_AT.model_copy(update={"steps": 4000})),
    "vectors": (*ONE_HEAD, LOOKED_AT.model_copy(update={"frozen_embedding": True})),
}
"""Families of models for one nearest neighbour (`nearest_neighbour.py`)."""


def nearest(family: str, seed: int = 0) -> Recipe:
    """One nearest neighbour in context: a model of a family and seed."""
    task, model, training = NEAREST[family]
    why = "one nearest neighbour in context, in as many layers as it takes; nothing but the answers is trained for"
    return Recipe(task, model, training.model_copy(update={"seed": seed}), why)


def contextual(layers: int, layout: Literal["statements", "pairs"] = "statements", seed: int = 0) -> Recipe:
    """Three pairs of one of twelve functions, a tenth of what they say never asked about; training seed and that of the
    functions are one. MLPs, since what a pair says of a function is no sum of what its symbol and its value say.
    """
    return Recipe(
        Templates(symbols=10, templates=12, template_seed=seed, layout=layout, held_out=0.1),
        ModelConfig(layers=layers, heads=2, d_head=32, attn_only=False),
        TrainingConfig(steps=1500, lr=3e-3, warmup=100, seed=seed),
        "contextual generalisation: which of several functions do pairs come from",
    )


def case_of_depth(case: Case, layers: int, seed: int = 0) -> Recipe:
    """A case study of depth in so many layers, without MLPs as in its source; all else is the same for all cases and depths."""
    supervision = "dense" if "pairs" in SIZES[case] else "final"
    return Recipe(
        DepthCases(case=case, **SIZES[case], supervision=supervision),
        ModelConfig(layers=layers, heads=2, d_head=32),
        TrainingConfig(steps=600, batch=64, lr=5e-3, warmup=100, evaluate_every=200, seed=seed),
        f"case study of depth, {case} in {layers} layer{'s' if layers > 1 else ''}",
    )


RECIPES: dict[str, Recipe] = {
    "cycle-d4-l3": Recipe(
        cycle(8, 4),
        ModelConfig(layers=3, heads=2),
        TrainingConfig(steps=5000, **SHARP, sharpen_from=2500),
        "bidirectional, D = 4: few heads, sharpened after it was solved, for a clean circuit",
    ),
    "cycle-d8-l4": Recipe(
        cycle(10, 8),
        ModelConfig(layers=4, heads=2, d_model=128, d_head=64),
        TrainingConfig(steps=5000, **SHARP, sharpen_from=2500),
        "bidirectional, D = 8; on a cycle of 10 hop 8 is hop -2; few wide heads, so that none need share their work by symbol",
        then=(TrainingConfig(steps=3000, lr=2e-3, entropy=0.1, loudness=0.08, warmup=100),),
    ),
    "chain-d4-l4": Recipe(
        chain(3, 4),
        ModelConfig(layers=4, heads=2),
        TrainingConfig(steps=6000, balanced=True, **SHARP, sharpen_from=2500, seed=3),
        "causal, D = 4, three chains; most seeds solve it without a previous-token head, this one with",
    ),
    "chain-d8-l5": Recipe(
        chain(2, 8),
        ModelConfig(layers=5, heads=2),
        TrainingConfig(steps=11000, batch=96, balanced=True, entropy=0.03, sharpen_from=7000),
        "causal, D = 8: the doubling case; a higher learning rate solves it sooner, but without a previous-token head",
        then=(
            TrainingConfig(steps=3000, batch=96, balanced=True, entropy=0.05, loudness=0.01, warmup=100),
            TrainingConfig(steps=3500, batch=96, balanced=True, entropy=0.1, loudness=0.08, warmup=100, lr=2e-3),
        ),
    ),
    "conditional-d2-l4": Recipe(
        Conditional(symbols=6, max_hops=2),
        ModelConfig(layers=4, heads=2, d_head=32),
        TrainingConfig(steps=8000, lr=2e-3, batch=64, **SHARP, sharpen_from=3000, snapshots=(3000,)),
        "each step needs a condition and a value; bidirectional, D = 2; solved before it is sharpened",
    ),
    "khop-k2-l3": Recipe(
        KHopInduction(context=24, symbols=4, max_hops=2),
        ModelConfig(layers=3, heads=2, d_head=32, attn_only=False),
        TrainingConfig(steps=3500, lr=2e-3, batch=64, **SHARP, sharpen_from=1500),
        "k-hop induction; MLPs choose between the hops, so that where heads look need not depend on how many are asked",
    ),
    "graph-tree-l2": causal("tree"),
    "nearest-pairs-l1": nearest("pairs, 1 head"),
    "templates-l2": contextual(2),
    "cases-template-l2": case_of_depth("template", 2),
    "automaton-flip-flop-l2": Recipe(
        Automaton(language="flip-flop", context=24),
        ModelConfig(layers=2, heads=2, d_head=32),
        TrainingConfig(steps=2000, lr=2e-3, batch=64, **SHARP, sharpen_from=800),
        "the state of a flip-flop: what the last of two symbols was, the one regular language whose state one position decides",
    ),
    "chain-d3-l3-curriculum": Recipe(
        chain(3, 3, "chain"),
        ModelConfig(layers=3, heads=2),
        TrainingConfig(steps=6000),
        "the paper's setting: causal, all hops asked at the query only",
    ),
    "cycle-d4-l4-curriculum": Recipe(
        cycle(8, 4, "chain"),
        ModelConfig(layers=4, heads=2),
        TrainingConfig(steps=4000),
        "solved with the implicit curriculum …",
    ),
    "cycle-d4-l4-final": Recipe(
        cycle(8, 4, "final"),
        ModelConfig(layers=4, heads=2),
        TrainingConfig(steps=4000),
        "… and at chance without it, all else equal",
    ),
    "cycle-d4-l3-wide": Recipe(
        cycle(8, 4),
        ModelConfig(layers=3, heads=4),
        TrainingConfig(steps=4000, weight_decay=0.0, stop_at=0.9995),
        "four heads, no weight decay, stopped when solved: solved but not clean, kept on purpose",
    ),
    "cycle-d4-l4-run": Recipe(
        cycle(8, 4, "chain"),
        ModelConfig(layers=4, heads=2),
        TrainingConfig(steps=4000, snapshot_every=200),
        "a whole run with its snapshots, along the emergence of the hops",
        whole_run=True,
    ),
}
