"""Everything random, by name: a stream of random numbers for each use, so that no two uses of a seed draw the same examples.

`stream(seed, name)` fills the whole state of torch's generator from a hash of seed and name. A seed put into
`Generator.manual_seed` would not do: of it torch takes 32 bits, and seed + 1 of one use is the seed of another.

Some streams are the *bare* numbers of their seed all the same, since what is committed was made with them and must come out
again from the scripts that made it:

- weights and training examples (`models/config.py`, `training/trainer.py`): the checkpoints and every sweep's runs;
- held-out and fresh examples (`Reserved`): when runs stopped, and the accuracies stored with checkpoints;
- the questions of a quiz (`quiz/quiz.py`, which hashes by itself) and the solved examples of prompted tasks:
  analyses/results/language-models.csv, heads_of_a_language_model-*.csv;
- depths and dropping (`analyses/depth.py`, `scale_confined.py`, `dropping.py`), and answers beside a stored accuracy
  (`scale_guesses.py`), from `Reserved`.
"""

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
import torch

from stackheads.errors import ConfigError
from stackheads.limits import whole

LARGEST = 2**32 - 1
"""The largest seed: of a larger one torch would take the lower 32 bits, and it would mean the same as a smaller one."""

_WORDS, _AT = 624, 24
"""The Mersenne twister's state is 624 words, each in 8 bytes, from byte 24 of what `torch.Generator.get_state` gives."""


class Stream(StrEnum):
    """What random numbers are for. Everything that draws takes a name from here, and no two uses share one."""

    what: str

    LABELLING = "labelling", "the examples that labels are made on"
    COUNTERFACTUALS = "counterfactuals", "which link of a labelled example is rewired, and to what"
    DONORS = "donors", "from which other examples a scrubbed head's output comes"
    BOOTSTRAP = "bootstrap", "resampled examples behind the intervals of an analysis"
    REACH = "reach", "the examples on which linear probes read hops"
    CIRCUIT = "circuit", "the examples on which edges of the circuit are measured"
    CIRCUIT_SETS = "circuit sets", "the sets of heads that completeness and minimality are measured on"
    AGREEMENT = "agreement", "the examples that the program and the model both answer"
    SELECTORS = "selectors", "the examples that selectors are fitted on"
    SELECTORS_JUDGED = "selectors judged", "the examples on which it is decided which selectors are dropped"
    SELECTORS_TRIED = "selectors tried", "the examples on which it is measured what selectors explain"
    SELECTORS_REWIRED = "selectors rewired", "which link of a tried example is rewired, and to what"
    HEADS_SOUGHT = "heads sought", "the examples and gates by which it is learnt which heads to keep"
    HEADS_KEPT = "heads kept", "the examples on which a model is measured with some heads alone"
    TRIAL = "trial", "the examples that labels are put on trial with"
    NECESSITY = "necessity", "the random sets of heads beside the heads of a hop"
    EMERGENCE = "emergence", "resampled examples behind the intervals of emergence steps"
    ORDERS = "orders", "resampled runs behind the interval of their agreement"
    ALIKE = "alike", "seeds resampled and exchanged behind how alike the circuits of runs are"
    CHECK = "check", "the examples on which a task is checked"
    FLOW = "flow", "the examples on which the flow of information is simulated"
    STRUCTURE = "structure", "the examples on which a task is looked through for shortcuts"
    LAYOUT = "layout", "the prompt that a prompted task's layout is read from"
    GRAPH = "graph", "the latent graph of a task about causal structure"
    TEMPLATES = "templates", "the functions of a task of templates, and what is held out of them"
    CASES = "cases", "what a task memorises, or holds out, in case studies of depth"
    SPECIMENS = "specimens", "order of heads and noise of compiled circuits"
    ROTATION = "rotation", "the basis of a compiled circuit's residual stream"
    GAINS = "gains", "the examples on which a compiled circuit's gains are calibrated"
    TRUTH = "truth", "the examples that show which offsets exist in a compiled circuit's task"
    ASSIGNED = "assigned", "which heads of a model are given the steps of a program"
    INTERCHANGE = "interchange", "the examples that interchanges are trained on, and which outputs are exchanged"
    INTERCHANGED = "interchanged", "the examples on which the accuracy of interchanges is measured, and which outputs"
    NULLS = "nulls", "how the heads of a model are taken apart"
    OUTSIDE = "outside", "the examples and tokens on which a model of others is tried"
    DRAWN = "drawn", "programs that are drawn at random, and what is added to them"
    BLURRED = "blurred", "the examples that a compiled circuit must still answer with blurred attention"
    AUTOMATA = "automata", "the strings on which automata are extracted from models"
    NEAREST = "nearest", "the examples on which attention and errors are compared with distances"
    BINDING = "binding", "the programs on which the answers of a model in training are told apart"
    GUESSES = "guesses", "the examples on which it is asked what answers that are guesses rest on"
    BENCHMARK = "benchmark", "the examples that something is timed on"

    def __new__(cls, value: str, what: str) -> "Stream":
        member = str.__new__(cls, value)
        member._value_, member.what = value, what
        return member


class Reserved(IntEnum):
    """Bare seeds of examples that no training may see; `training` refuses them."""

    HELD_OUT = 1_000_003
    FRESH = 2_000_003
    DEPTH = 3_000_003
    SHOTS = 9_999_991


def check_seed(seed: Any) -> int:
    """The seed as an int. Raises `ConfigError` if it is no integer of 32 bits without sign."""
    found = whole(seed)
    if found is None or not 0 <= found <= LARGEST:
        raise ConfigError(f"a seed is an int in 0..{LARGEST}, got {seed!r}: give one of these, such as 0")
    return found


def check_training_seed(seed: Any) -> int:
    """The seed as an int. Raises `ConfigError` if it is no seed, or draws what training is evaluated on."""
    found = check_seed(seed)
    if found in tuple(Reserved):
        raise ConfigError(
            f"seeds {', '.join(map(str, Reserved))} draw held-out examples, got training seed {seed}: choose another"
        )
    return found


def stream(seed: int, name: Stream, *more: int | str) -> torch.Generator:
    """A generator for one use, the same on every machine; `more` tells apart several draws for it.

    Different (seed, name, more) never give the same numbers, short of a collision of SHAKE-256. Raises `ConfigError`.
    """
    key = json.dumps([check_seed(seed), name, *more])
    words = np.frombuffer(hashlib.shake_256(key.encode()).digest(4 * _WORDS), dtype="<u4").astype(np.int64)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    state[_AT : _AT + 8 * _WORDS].view(torch.int64).copy_(torch.from_numpy(words))
    generator.set_state(state)
    return generator


def bare(seed: int) -> torch.Generator:
    """The bare numbers of a seed, for what was committed (see above) and nothing new. Raises `ConfigError`."""
    return torch.Generator().manual_seed(check_seed(seed))


def training(seed: int) -> torch.Generator:
    """The bare numbers of a seed that examples to train on are drawn from. Raises `ConfigError`."""
    return bare(check_training_seed(seed))


@contextmanager
def initialising(seed: int) -> Generator[None]:
    """Weights made inside are drawn from the bare seed; the global random state is left as it was. Raises `ConfigError`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        yield
