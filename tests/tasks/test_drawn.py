"""What is no task, and examples that no analysis can count on, are refused where they come in: in one line, with the cure."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rewritten import Wrapped

from stackheads import analyze, load
from stackheads.errors import ConfigError, TaskError
from stackheads.models import ModelConfig, build
from stackheads.tasks import Cycle, Retrieval, check, check_task, draw, from_config, rewired
from stackheads.types import IGNORE, Role, Slot

CHECKPOINTS = Path(__file__).parent.parent.parent / "checkpoints"
RIGHT = Cycle(symbols=6, max_hops=2, attention_dir="causal")


class Spoilt(Wrapped):
    """A right task whose batches have one thing put wrong."""

    def __init__(self, spoil, counterfactual=None, task=RIGHT):
        super().__init__(task)
        self._spoil, self._other = spoil, counterfactual

    def sample(self, n, generator):
        return self._spoil(super().sample(n, generator))

    def counterfactual(self, batch, hop, generator):
        right = super().counterfactual(batch, hop, generator)
        return right if self._other is None else self._other(batch, right)


def wrong(**tensors):
    """A batch with other members, as where no type checker stands in the way."""

    def spoil(batch):
        other = replace(batch)
        for name, change in tensors.items():
            object.__setattr__(other, name, change(batch))
        return other

    return spoil


def marked(values, where, value):
    return values.masked_fill(where, value)


STRUCTURE = {
    "no batch": (lambda batch: batch.tokens, r"sample must give a tasks\.Batch, got Tensor"),
    "float tokens": (wrong(tokens=lambda batch: batch.tokens.float()), "tokens must be a tensor of int64, got float32"),
    "bool slots": (wrong(slots=lambda batch: batch.slots == Slot.KEY), "slots must be a tensor of int64, got bool"),
    "a list": (wrong(slots=lambda batch: batch.slots.tolist()), "slots must be a tensor of int64, got list"),
    "no targets": (wrong(targets=lambda batch: None), "targets must be a tensor of int64, got NoneType"),
    "on meta": (lambda batch: batch.to("meta"), "must hold numbers"),
    "fewer": (lambda batch: batch[:9], r"of 16 examples, \[16, 13\], got \[9, 13\]"),
    "more": (lambda batch: batch[torch.arange(32) % 16], r"of 16 examples, \[16, 13\], got \[32, 13\]"),
    "none": (lambda batch: batch[:0], r"of 16 examples, \[16, 13\], got \[0, 13\]"),
    "shorter": (lambda batch: batch.at(torch.arange(12)), "must fill the context, n_ctx = 13, got 12"),
    "one find map": (wrong(find=lambda batch: batch.find[:, :1]), r"find must have shape \[batch, hop, pos\] = \[16, 6, 13\]"),
    "operands of no name": (wrong(operands=lambda batch: batch.find), r"operands must have shape .* = \[16, 0, 13\]"),
    "targets flat": (wrong(targets=lambda batch: batch.targets[..., 0]), "targets must have shape"),
    "hops flat": (wrong(target_hop=lambda batch: batch.target_hop[..., 0]), "target_hop must have shape"),
    "unknown tokens": (wrong(tokens=lambda batch: batch.tokens + 3), r"tokens must be in \[0, d_vocab\)"),
    "unknown slots": (wrong(slots=lambda batch: batch.slots + 9), "slots must be of types.Slot"),
    "-1 for nothing": (
        wrong(targets=lambda batch: marked(batch.targets, batch.targets == IGNORE, -1)),
        "or -100 where nothing is asked",
    ),
    "hops backward": (wrong(target_hop=lambda batch: -batch.target_hop), "must be a hop from 1 on"),
    "unknown answers": (
        wrong(targets=lambda batch: marked(batch.targets, batch.targets >= 0, 77)),
        "targets must be below the readout's 6 answers",
    ),
    "beyond the end": (wrong(find=lambda batch: marked(batch.find, batch.find >= 0, 13)), "must name positions, or -1"),
    "pads in a list": (wrong(pads=lambda batch: [False] * 13), "pads must be a tensor of bool, got list"),
    "pads as numbers": (wrong(pads=lambda batch: torch.zeros_like(batch.tokens)), r"pads must be bool .* int64 \[16, 13\]"),
    "pads in slots": (wrong(pads=lambda batch: batch.slots == Slot.KEY), "pads must stand before or behind"),
    "gates in a list": (wrong(gates=lambda batch: [batch.tokens]), "gates must be tensors by name, got list"),
    "gates of lists": (wrong(gates=lambda batch: {"own": batch.tokens.tolist()}), "gates must be tensors by name"),
    "gates of floats": (wrong(gates=lambda batch: {"own": batch.tokens.float()}), "'own' must hold whole numbers"),
}


@pytest.mark.parametrize(("spoil", "rule"), STRUCTURE.values(), ids=STRUCTURE)
def test_examples_that_nothing_can_be_counted_on_are_refused(spoil, rule):
    for refused in (
        lambda task: draw(task, 16, torch.Generator().manual_seed(0)),
        lambda task: check(task, examples=16),
    ):
        with pytest.raises(TaskError, match=rule) as caught:
            refused(Spoilt(spoil))
        assert "\n" not in str(caught.value)


def test_whole_numbers_of_other_sizes_are_the_same_numbers():
    smaller = wrong(
        **{name: lambda batch, name=name: getattr(batch, name).to(torch.int16) for name in ("tokens", "find", "slots")}
    )
    found, expected = (draw(Spoilt(spoil), 16, torch.Generator().manual_seed(0)) for spoil in (smaller, lambda batch: batch))
    for name in ("tokens", "find", "slots", "targets"):
        assert getattr(found, name).dtype == torch.long
        assert torch.equal(getattr(found, name), getattr(expected, name))


READOUTS = {
    "flat": lambda logits, batch: logits,
    "of the last place": lambda logits, batch: logits[:, -1:, None],
    "answers": lambda logits, batch: logits.argmax(dim=-1)[:, :, None],
    "numpy": lambda logits, batch: np.zeros((2, 13, 1, 6)),
    "one answer": lambda logits, batch: RIGHT.readout(logits, batch)[..., :1],
}


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_a_readout_of_another_shape_is_refused(readout):
    task = Spoilt(lambda batch: batch)
    task.readout = readout
    with pytest.raises(TaskError, match=r"readout must give|two answers or more"):
        draw(task, 16, torch.Generator().manual_seed(0))


COUNTERFACTUALS = {
    "nothing": (lambda batch, other: None, r"counterfactual at hop 1 must give a tasks\.Batch, got NoneType"),
    "some": (lambda batch, other: other[:3], "counterfactual at hop 1 must give tokens of 16 examples"),
    "other slots": (
        lambda batch, other: replace(other, slots=other.slots.roll(1, 1)),
        "the counterfactual at hop 1 must keep the slots",
    ),
    "other examples": (
        lambda batch, other: RIGHT.sample(len(batch), torch.Generator().manual_seed(9)),
        "the counterfactual at hop 1 must change one token",
    ),
}


@pytest.mark.parametrize(("spoil", "rule"), COUNTERFACTUALS.values(), ids=COUNTERFACTUALS)
def test_what_is_no_counterfactual_is_refused(spoil, rule):
    task, generator = Spoilt(lambda batch: batch, spoil), torch.Generator().manual_seed(0)
    with pytest.raises(TaskError, match=rule):
        rewired(task, draw(task, 16, generator), 1, generator)
    with pytest.raises(TaskError, match=rule):
        check(task, examples=16)


def without(name):
    members = ("name", "n_ctx", "d_vocab", "d_vocab_out", "attention_dir", "hops", "sample", "readout", "counterfactual")
    return type("Own", (), {each: getattr(RIGHT, each) for each in members if each != name})()


class NoGenerator(Wrapped):
    def sample(self, n):
        return RIGHT.sample(n, torch.Generator())


def having(name, value):
    task = Wrapped(RIGHT)
    setattr(task, name, value)
    return task


VALUES = [
    *(("name", value) for value in (None, 5, "\udce9")),
    *((name, value) for name in ("n_ctx", "d_vocab", "d_vocab_out") for value in (13.0, "13", 0, -1, True, None)),
    *(("hops", value) for value in (1, None, "12", (1, 1), (1.0,), (True,), (np.int64(1),), {1: 2})),
    *(("operands", value) for value in (None, 1, "key", ("foo",), (Role("hop"),), (Role("self"),), (Role("asked", 1),))),
]


NONE = {
    "a class": (Cycle, "got the class Cycle: make one of it"),
    "a name": ("cycle", "got str without name"),
    "settings": ({"kind": "cycle"}, "got dict without name"),
    "no counterfactual": (without("counterfactual"), "got Own without counterfactual"),
    "no hops": (without("hops"), "got Own without hops"),
    "no direction": (without("attention_dir"), "got Own without attention_dir"),
    "other arguments": (NoGenerator(RIGHT), r"called as sample\(n, generator\), that of NoGenerator can't be"),
    **{f"{name} {value!r}": (having(name, value), f"a task's {name} (is|are) .*, got .*: ") for name, value in VALUES},
}


@pytest.mark.parametrize(("task", "rule"), NONE.values(), ids=NONE)
def test_what_is_no_task_is_refused(task, rule):
    with pytest.raises(ConfigError, match=rule):
        check_task(task)


def test_every_way_in_refuses_before_the_model_runs(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    found = analyze(checkpoint, examples=64, progress=False, explain=False)
    ran: list[int] = []
    checkpoint.model.add_hook("hook_embed", lambda value, hook: ran.append(len(value)))
    task = Spoilt(wrong(pads=lambda batch: torch.zeros_like(batch.tokens)), task=checkpoint.task)
    for way in (
        lambda: analyze(checkpoint.model, task, examples=64, progress=False),
        lambda: found.trial(checkpoint.model, task, examples=64),
        lambda: found.selectors(checkpoint.model, task, examples=64, progress=False),
        lambda: found.by_gate(checkpoint.model, task, examples=64),
    ):
        with pytest.raises(TaskError, match="pads must be bool"):
            way()
    assert not ran


def test_what_asks_nothing_is_refused(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    task = Spoilt(wrong(targets=lambda batch: torch.full_like(batch.targets, IGNORE)), task=checkpoint.task)
    with pytest.raises(TaskError, match="something must be asked"):
        check(task)
    with pytest.raises(TaskError, match="64 examples ask none there"):
        analyze(checkpoint.model, task, examples=64, progress=False)


@pytest.mark.parametrize(
    ("changed", "spoil", "rule"),
    [
        ({"hops": (2,)}, wrong(find=lambda batch: batch.find[:, :1]), r"one of the task's hops \(2,\), got hop 1"),
        ({"operands": (Role("key", 1),)}, lambda batch: batch, r"operands must have shape .* = \[\d+, 1, 13\], got None"),
    ],
)
def test_what_a_task_names_and_its_examples_belong_together(changed, spoil, rule):
    """Or a head would be confirmed in a role that nothing asks about."""
    task = Spoilt(spoil)
    for name, value in changed.items():
        setattr(task, name, value)
    model = build(ModelConfig(layers=1, heads=1), RIGHT)
    for way in (lambda: check(task), lambda: analyze(model, task, examples=64, progress=False)):
        with pytest.raises(TaskError, match=rule):
            way()


@pytest.mark.parametrize("config", sorted(CHECKPOINTS.rglob("config.json")), ids=lambda path: path.parent.name)
def test_the_task_of_every_shipped_checkpoint_is_right(config):
    task = from_config(json.loads(config.read_text())["task"])
    check(task, 64)
    assert len(draw(task, 64, torch.Generator().manual_seed(0))) == 64


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
@pytest.mark.parametrize("symbols", range(3, 13))
def test_all_hops_of_a_cycle_may_be_asked(symbols, direction):
    """Its find maps call hop j hop j - n, where that is nearer."""
    for hops in range(1, symbols - 1):
        check(Cycle(symbols=symbols, max_hops=hops, attention_dir=direction), 16)


def test_a_hop_without_a_find_map_is_refused_and_on_a_cycle_one_that_comes_round_has_one():
    def asked(hop, task):
        return Spoilt(wrong(target_hop=lambda batch: marked(batch.target_hop, batch.target_hop == 2, hop)), task=task)

    with pytest.raises(
        TaskError, match=r"one of the task's hops \(.*\), got hop 7; example 0 breaks this .* give its find map"
    ):
        draw(asked(7, Retrieval(chains=2, max_hops=2)), 16, torch.Generator().manual_seed(0))
    assert len(draw(asked(2 + RIGHT.symbols, RIGHT), 16, torch.Generator().manual_seed(0))) == 16
