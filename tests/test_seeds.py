"""Random streams: no two of them give the same numbers, and nothing in the source draws from anywhere else."""

import ast
import hashlib
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import stackheads
from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import doubling
from stackheads.programs.program import lower
from stackheads.seeds import LARGEST, Reserved, Stream, bare, check_seed, check_training_seed, initialising, stream, training
from stackheads.tasks import Cycle, Retrieval, labelling_batch
from stackheads.tasks.check import check
from stackheads.training.config import TrainingConfig
from stackheads.trial.trial import put_on_trial

SOURCE = Path(stackheads.__file__).parent
UNSEEDED = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "poisson"}
UNSEEDED_IN_PLACE = {"random_", "uniform_", "normal_", "bernoulli_", "exponential_", "log_normal_", "geometric_", "cauchy_"}


def parsed():
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def attributes(tree):
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def first_numbers(generator):
    return tuple(torch.randint(2**62, (2,), generator=generator).tolist())


def every_stream(seed):
    """All generators that a seed can give, by name."""
    return {
        **{str(name): stream(seed, name) for name in Stream},
        **{f"resampling {name}": stream(seed, Stream.BOOTSTRAP, name) for name in (Stream.TRIAL, Stream.CIRCUIT)},
        "training, sweeps": training(seed),
    }


def test_no_two_streams_of_a_thousand_seeds_begin_alike():
    found = {str(name): first_numbers(bare(name)) for name in Reserved}
    for seed in range(1000):
        found |= {f"{name} {seed}": first_numbers(generator) for name, generator in every_stream(seed).items()}
    assert len(found) == len(Reserved) + 1000 * len(every_stream(0))
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("task", [Cycle(symbols=8, max_hops=4), Retrieval(chains=3, max_hops=4)], ids=lambda task: task.name)
def test_no_two_streams_give_the_same_examples(task):
    generators = [bare(name) for name in Reserved]
    for seed in (0, 1, 2, 3, 16, LARGEST):
        generators += every_stream(seed).values()
    drawn = {task.sample(4, generator).tokens.numpy().tobytes() for generator in generators}
    assert len(drawn) == len(generators)


class Watched(Retrieval):
    """A task that notes the state of the generator whenever examples are drawn, and how many."""

    _seen: list

    def sample(self, n, generator):
        self._seen.append((n, hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()))
        return super().sample(n, generator)


def test_an_analysis_and_its_trial_never_draw_the_same_examples_twice():
    task = Watched(chains=2, max_hops=1, attention_dir="causal")
    task._seen = []
    model, _ = compile_layers(lower(doubling(1)), task)
    calibration = set(task._seen)  # the compiler's own: the same for every seed, and no evidence
    task._seen.clear()
    for seed in (0, 1):
        found = analyze(model, task, examples=32, seed=seed, progress=False)
        put_on_trial(model, task, found.labels, 32, seed)
    drawn = [digest for each in task._seen if each not in calibration for digest in [each[1]]]
    assert len(drawn) >= 2 * 5  # labels, reach, circuit, agreement, trial
    assert len(set(drawn)) == len(drawn)


def test_a_stream_is_a_mersenne_twister_with_the_hash_as_its_state():
    """numpy's generator with the same state gives the same bits: the whole state is used, and torch keeps it as we believe."""
    words = hashlib.shake_256(b'[5, "reach", 7]').digest(4 * 624)
    oracle = np.random.MT19937()
    oracle.state = {"bit_generator": "MT19937", "state": {"key": np.frombuffer(words, dtype="<u4"), "pos": 624}}
    expected = (oracle.random_raw(2000) & (2**24 - 1)) / 2**24  # a float32 takes the lower 24 bits
    assert torch.equal(torch.rand(2000, generator=stream(5, Stream.REACH, 7)), torch.tensor(expected, dtype=torch.float32))


def test_streams_are_the_same_each_time_and_depend_on_every_part():
    one = first_numbers(stream(3, Stream.TRIAL, "a", 1))
    assert one == first_numbers(stream(3, Stream.TRIAL, "a", 1))
    others = [(4, Stream.TRIAL, "a", 1), (3, Stream.REACH, "a", 1), (3, Stream.TRIAL, "a", "1"), (3, Stream.TRIAL, "a1")]
    assert one not in {first_numbers(stream(*each)) for each in others}


def test_every_stream_says_what_it_is_for():
    assert len({name.what for name in Stream}) == len(Stream)
    assert all(name.what for name in Stream)


BARE = {"models/config.py", "training/trainer.py", "quiz/quiz.py", "seeds.py"}
"""First weights, a run's examples and how far it is, and questions by the hash of their name."""


def test_bare_numbers_of_a_seed_that_training_may_draw_are_drawn_by_training_alone():
    """Anywhere else they would be called fresh, and be the first examples that a model of this seed has seen."""
    scripts = [ast.parse(path.read_text()) for path in (SOURCE.parent.parent / "analyses").rglob("*.py")]
    called = []
    for tree in [*(tree for name, tree in parsed().items() if name not in BARE), *scripts]:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called += [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) in ("bare", "seeds.bare")]
    assert len(called) >= 4
    assert set(called) <= {f"Reserved.{name.name}" for name in Reserved}


def test_labels_are_made_on_the_labelling_stream(chain):
    assert torch.equal(labelling_batch(chain, 8, 3).tokens, chain.sample(8, stream(3, Stream.LABELLING)).tokens)


def test_committed_checkpoints_can_be_made_again():
    """Training and weights draw the bare numbers of a seed, those of torch itself."""
    for generator in (training(3), bare(3)):
        assert first_numbers(generator) == first_numbers(torch.Generator().manual_seed(3))
    before = torch.get_rng_state()
    with initialising(3):
        drawn = torch.rand(4)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.array, torch.tensor])
def test_a_whole_number_of_any_kind_is_a_seed_and_kept_as_an_int(kind):
    uses = [check_seed, check_training_seed, lambda seed: TrainingConfig(data_seed=seed).seed_of_data]
    for use in uses:
        assert type(use(kind(3))) is int
        assert use(kind(3)) == 3
    assert first_numbers(unwrap(stream)(kind(3), Stream.TRIAL)) == first_numbers(stream(3, Stream.TRIAL))
    assert first_numbers(unwrap(training)(kind(3))) == first_numbers(training(3))


@pytest.mark.parametrize("seed", [-1, LARGEST + 1, 2**63, True, np.True_, 1.0, np.float64(1), "0", None], ids=repr)
def test_a_bad_seed_is_refused_in_one_line(seed, chain):
    uses = [check_seed, check_training_seed, lambda seed: TrainingConfig(seed=seed)]
    if type(seed) is int:
        uses += [bare, training, lambda seed: stream(seed, Stream.TRIAL), lambda seed: check(chain, seed=seed)]
    for use in uses:
        with pytest.raises(ConfigError, match=rf"0\.\.{LARGEST}, got .*: give one") as caught:
            use(seed)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", list(Reserved))
def test_no_run_trains_on_held_out_examples(seed):
    for use in (training, check_training_seed, lambda seed: TrainingConfig(seed=seed)):
        with pytest.raises(ConfigError, match=rf"got training seed {int(seed)}: choose another"):
            use(int(seed))


def test_generators_are_seeded_in_one_place():
    found = {name for name, tree in parsed().items() if "manual_seed" in attributes(tree)}
    assert found == {"seeds.py"}


def test_nothing_draws_from_global_random_state():
    for name, tree in parsed().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                assert not {"random", "numpy.random"} & set(modules), f"{name}:{node.lineno} imports a global generator"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy"):
                assert node.attr != "random", f"{name}:{node.lineno} uses numpy's generator"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
                draws = (of_torch and node.func.attr in UNSEEDED) or node.func.attr in UNSEEDED_IN_PLACE
                seeded = any(keyword.arg == "generator" for keyword in node.keywords)
                assert seeded or not draws, f"{name}:{node.lineno} draws from torch's global generator"
