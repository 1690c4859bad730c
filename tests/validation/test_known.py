"""Models whose circuit is known because training forced it: the program with exchanges, patched runs, measures and records."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import CheckpointError, ConfigError
from stackheads.models import ModelConfig, build, named_weights
from stackheads.models.forwards.patched import Outputs, PatchedForward, Swap
from stackheads.models.hooks import HeadEdit, record, run_edited
from stackheads.programs.compiler import compile_layers
from stackheads.programs.heads import HeadSpec
from stackheads.programs.mechanisms import doubling, one_hop_per_layer, tripling
from stackheads.seeds import Stream, stream
from stackheads.tasks import Cycle, KHopInduction, Retrieval
from stackheads.training.config import TrainingConfig
from stackheads.types import IGNORE, HeadId, Slot
from stackheads.validation.assigned import assign, statements, strings, walk
from stackheads.validation.exchanged import attention_on_sources, interchange_accuracy, moved_by_the_rest
from stackheads.validation.interpreter import answers, interpret
from stackheads.validation.known import BAR, known_models, load_known, write_record
from stackheads.validation.strict import draw, interchange_loss, train_strictly
from stackheads.validation.truth import labels_by_construction

CHAIN = Retrieval(chains=3, max_hops=2, supervision="chain", attention_dir="causal")
LONG = Retrieval(chains=2, max_hops=3, supervision="chain", attention_dir="causal")
DENSE = Retrieval(chains=2, max_hops=3, supervision="dense", attention_dir="causal")
CYCLE, RING = Cycle(symbols=6, max_hops=2), Cycle(symbols=8, max_hops=4)
ONE_STRING, TWO_STRING = (KHopInduction(context=10, symbols=4, max_hops=hops) for hops in (1, 2))


def by_destination(layers):
    """Each step given to heads of its own for each destination."""
    return tuple(
        tuple(replace(spec, rows=frozenset({place})) for spec in specs for place in sorted(spec.rows)) for specs in layers
    )


PROGRAMS = {
    "walk": (CHAIN, statements(CHAIN, one_hop_per_layer(2))),
    "doubling": (LONG, statements(LONG, doubling(3))),
    "dense walk": (CYCLE, walk(CYCLE)),
    "dense chain": (DENSE, walk(DENSE)),
    "tripling": (RING, statements(RING, tripling(4))),
    "one hop": (ONE_STRING, strings(ONE_STRING)),
    "two hops": (TWO_STRING, strings(TWO_STRING)),
    "apart": (LONG, by_destination(statements(LONG, doubling(3)))),
}
SHIPPED = ("khop-k1-two", "chain-d1-two", "cycle-d2")


def circuit(name, share=1):
    task, layers = PROGRAMS[name]
    return assign(task, layers, 5, [share] * len(layers), choosing=name == "two hops")


# The program with exchanges: a plain interpreter of one example, after the words of the module.


def plain_run(known, tokens, slots, exchanged, other):
    """Registers {(name, position): symbol, None or "?"} and what was carried {(step, head, copy, position): …}, by loops."""
    registers, carried = {("f0", at): token for at, token in enumerate(tokens)}, {}
    for layer in range(known.n_layers):
        written = {}
        for number, step in enumerate(known.steps):
            if step.layer != layer:
                continue
            acting = {place.slot for place in step.spec.rows}
            for row in range(len(tokens)):
                own = registers.get((step.own, row), "?")
                source = plain_source(known, step.spec, registers, slots, row)
                for copy in step.spec.copies:
                    brought = []
                    for part, head in enumerate(step.heads):
                        mine = len(step.heads) == 1 or (isinstance(own, int) and own % len(step.heads) == part)
                        value = "silent"
                        if mine:
                            value = registers.get((copy.source, source), "?") if isinstance(source, int) else source
                        if exchanged is not None and exchanged[layer, row, head.index]:
                            value = other[number, part, copy.target, row]
                        carried[number, part, copy.target, row] = value
                        brought += [value] if value != "silent" else []
                    if slots[row] in acting:
                        written[copy.target, row] = brought[0] if len(brought) == 1 else "?"
        registers |= written
    return registers, carried


def plain_source(known, spec: HeadSpec, registers, slots, row):
    """A position, None for nothing to find, "?" where the program does not say."""
    causal, strings_ = known.task.attention_dir == "causal", isinstance(known.task, KHopInduction)
    seen = [at for at in range(len(slots)) if slots[at] in spec.sources and not (causal and at > row)]
    if spec.offset is not None or not spec.matches:
        found = [at for at in seen if spec.offset is None or at == row + spec.offset]
        return found[0] if len(found) == 1 else "?"
    ((mine, theirs),) = spec.matches
    wanted, there = registers.get((mine, row), "?"), {at: registers.get((theirs, at), "?") for at in seen}
    if wanted == "?" or "?" in there.values():
        return "?"
    found = [at for at, symbol in there.items() if symbol == wanted and wanted is not None]
    if strings_:
        return found[-1] if found else None
    return found[0] if len(found) == 1 else "?"


def plain_answers(known, registers, slots, asked, blank):
    """The symbol asked for at each position and readout, IGNORE where it is not known or nothing is asked."""
    task, found = known.task, []
    for at, slot in enumerate(slots):
        for number in range(len(asked[at])):
            if isinstance(task, KHopInduction):
                k = registers.get(("asked", at), "?") if task.max_hops > 1 else 1
                value = registers.get((f"f{k}", at), "?") if slot != Slot.OTHER else blank
                value = task.does_not_exist if value is None else value
            else:
                value = registers.get((f"f{task.same_offset(task.readout_hops[number])}", at), "?")
            found.append(value if isinstance(value, int) and asked[at][number] else IGNORE)
    return found


@settings(max_examples=40)
@given(st.sampled_from(list(PROGRAMS)), st.sampled_from([1, 2, 3]), st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_program_with_exchanges_is_the_plain_one(name, share, seed, rate):
    known, generator = circuit(name, share), torch.Generator().manual_seed(seed)
    batch = known.task.sample(3, generator)
    swapped = torch.rand(known.n_layers, *batch.tokens.shape, known.n_heads, generator=generator) < rate
    swapped &= torch.rand(known.n_layers, 1, 1, known.n_heads, generator=generator) < 0.5
    meant = interpret(known, batch)
    found = answers(known, batch, interpret(known, batch, swapped, meant.rolled(1)))
    slots = [Slot(slot) for slot in batch.slots[0].tolist()]
    tokens = batch.tokens.tolist()
    for number in range(3):
        _, other = plain_run(known, tokens[number - 1], slots, None, None)
        registers, _ = plain_run(known, tokens[number], slots, swapped[:, number], other)
        asked = (batch.targets[number] != IGNORE).tolist()
        expected = plain_answers(known, registers, slots, asked, getattr(known.task, "blank", 0))
        assert found[number].flatten().tolist() == expected


@pytest.mark.parametrize("share", [1, 2, 3])
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_programs_answer_their_task(name, share, generator):
    known = circuit(name, share)
    batch = known.task.sample(64, generator)
    assert torch.equal(answers(known, batch, interpret(known, batch)), batch.targets)


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_with_all_steps_exchanged_the_answers_are_the_other_example_s(name, generator):
    """Also the query's hop is then the other query's: nothing of the example's own is left but what it is asked."""
    known = circuit(name, 2)
    batch = known.task.sample(32, generator)
    every = known.carrying(batch.slots[0])[:, None].expand(-1, 32, -1, -1)
    meant = interpret(known, batch)
    found = answers(known, batch, interpret(known, batch, every, meant.rolled(1)))
    other = batch.targets.roll(1, dims=0)
    assert torch.equal(found, other.where(batch.targets != IGNORE, IGNORE))


def test_keys_exchanged_change_who_finds_whom():
    """By hand: 0 = 1, 2 = 3, query 0, with the keys of 2 = 1, 0 = 3: then 0 leads to 3."""
    task = Retrieval(chains=2, max_hops=1, supervision="chain", attention_dir="causal")
    known = assign(task, statements(task, one_hop_per_layer(1)), 0)
    batch = task.batch(torch.tensor([[0, 1, 2, 3, 0], [2, 1, 0, 3, 2]]))
    (head,) = known.steps[0].heads
    swapped = torch.zeros(known.n_layers, 2, 5, known.n_heads, dtype=torch.bool)
    swapped[0, :, [1, 3], head.index] = True
    meant = interpret(known, batch)
    assert answers(known, batch, meant)[:, -1, 0].tolist() == [1, 1]
    assert answers(known, batch, interpret(known, batch, swapped, meant.rolled(1)))[:, -1, 0].tolist() == [3, 3]
    swapped[0, :, 3] = False  # the key 0 stands nowhere in the first example, and twice in the other
    swapped[0, :, 1, head.index] = True
    found = answers(known, batch, interpret(known, batch, swapped, meant.rolled(1)))[:, -1, 0].tolist()
    assert found == [IGNORE, IGNORE]


@pytest.mark.parametrize("name", ["walk", "doubling", "dense walk", "dense chain", "tripling", "apart"])
def test_truth_is_that_of_the_compiled_circuit(name):
    """Of compiled circuits it follows from what is read later; here every step must be such a one."""
    known = circuit(name)
    specs = {(step.layer, head.index): step.spec for step in known.steps for head in step.heads}
    idle = HeadSpec((), frozenset(), (), {})
    layers = tuple(tuple(specs.get((layer, index), idle) for index in range(known.n_heads)) for layer in range(known.n_layers))
    constructed = labels_by_construction(layers, known.task)
    truth = known.truth()
    assert truth.keys() == constructed.keys()
    for cell, label in truth.items():
        assert (label.status == "confirmed") == (constructed[cell].status == "confirmed")
        if label.status == "confirmed":
            assert label.role == constructed[cell].role


@pytest.mark.parametrize("name", ["walk", "doubling", "one hop", "two hops"])
def test_gates_are_the_rows_of_each_head(name, generator):
    """Where a step is shared by the own token, a head's gate holds at its rows and at no others."""
    known, gated = circuit(name, 2), 0
    batch = known.task.sample(64, generator)
    truth, meant = known.truth(), interpret(known, batch)
    for step, whose in zip(known.steps, meant.whose, strict=True):
        for number, head in enumerate(step.heads):
            for place in step.spec.rows:
                gate, rows = truth[head, place].gate, batch.slots == place.slot
                assert (gate is None) == (step.own != "f0")
                if gate is not None:
                    holds = torch.isin(batch.gates[gate.name], torch.tensor(gate.values))
                    assert torch.equal(holds[rows], (whose == number)[rows])
                    gated += 1
    assert gated


# Runs with outputs of other runs in them, against hooks by hand.


@pytest.fixture(params=[(CYCLE, True), (CHAIN, False), (ONE_STRING, False)], ids=["cycle", "chain, MLPs", "string, MLPs"])
def patched(request, generator):
    """A model with large random weights, examples, and a random exchange."""
    task, attn_only = request.param
    config = ModelConfig(layers=2, heads=2, d_model=16, d_head=8, attn_only=attn_only, dtype="float64")
    model = build(config, task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    batch = task.sample(4, generator)
    swap = Swap(
        torch.rand(2, *batch.tokens.shape, 2, generator=generator) < 0.5,
        torch.rand(2, *batch.tokens.shape, generator=generator) < (0.0 if attn_only else 0.5),
    )
    return model, batch, swap


def by_hand(model, batch, swap):
    """Logits of the exchanged run through the model's own hooks, gradients and all."""
    kept = {}
    points = [f"blocks.{layer}.attn.hook_z" for layer in (0, 1)]
    points += [] if model.cfg.attn_only else [f"blocks.{layer}.hook_mlp_out" for layer in (0, 1)]
    keep = [(name, lambda value, hook, name=name: kept.update({name: value})) for name in points]
    model.run_with_hooks(batch.tokens, fwd_hooks=keep)

    def put(value, hook, name):
        rows = (swap.mlps if "mlp" in name else swap.heads)[int(name.split(".")[1])]
        return torch.where(rows[..., None], kept[name].roll(1, dims=0), value)

    changes = [(name, lambda value, hook, name=name: put(value, hook, name)) for name in points]
    return model.run_with_hooks(batch.tokens, fwd_hooks=changes)


def test_an_exchanged_run_is_that_of_hooks_by_hand_with_its_gradients(patched):
    model, batch, swap = patched
    forward = PatchedForward(model)
    _, outputs = forward.run(batch.tokens)
    mine, theirs = forward.run(batch.tokens, swap, outputs.rolled(1))[0], by_hand(model, batch, swap)
    torch.testing.assert_close(mine, theirs)
    weights = [parameter for name, parameter in named_weights(model).items() if "IGNORE" not in name]
    ours, own = (torch.autograd.grad(logits.square().sum(), weights, allow_unused=True) for logits in (mine, theirs))
    for one, other in zip(ours, own, strict=True):
        torch.testing.assert_close(one, other)


def test_heads_exchanged_are_edits_of_heads(patched):
    model, batch, swap = patched
    forward = PatchedForward(model)
    run = record(model, batch.tokens)
    with torch.no_grad():
        _, outputs = forward.run(batch.tokens)
        heads = Swap(swap.heads, torch.zeros_like(swap.mlps))
        logits, _ = forward.run(batch.tokens, heads, outputs.rolled(1))
    edits = [
        HeadEdit(HeadId(layer, index), swap.heads[layer, ..., index], run.z[layer, :, :, index].roll(1, dims=0))
        for layer in (0, 1)
        for index in (0, 1)
    ]
    torch.testing.assert_close(torch.stack(outputs.z), run.z)
    torch.testing.assert_close(logits, run_edited(model, batch.tokens, edits))


def test_without_an_exchange_a_run_is_the_model_s_own(patched):
    model, batch, _ = patched
    logits, outputs = PatchedForward(model).run(batch.tokens)
    torch.testing.assert_close(logits, model(batch.tokens))
    assert isinstance(outputs.rolled(len(batch)), Outputs)
    assert torch.equal(outputs.rolled(len(batch)).z[0], outputs.z[0])


# What training draws and asks.


@pytest.mark.parametrize("name", ["walk", "doubling", "two hops"])
def test_what_is_drawn(name, generator):
    """Nothing changes where the rest alone is exchanged; a single head of several only where both examples give it the rows."""
    known = circuit(name, 2)
    drawn = draw(known, 400, generator)
    batch, heads = drawn.batch, drawn.swap.heads
    carrying = known.carrying(batch.slots[0])[:, None]
    rest, steps = (heads & ~carrying).flatten(2).any(dim=2).any(dim=0), (heads & carrying).flatten(2).any(dim=2).any(dim=0)
    assert torch.equal(drawn.only_rest, ~steps)
    assert torch.equal(drawn.targets[drawn.only_rest], batch.targets[drawn.only_rest])
    assert all(bool(kind.any()) for kind in (rest & steps, rest & ~steps, ~rest & steps))
    assert bool(((drawn.targets != batch.targets) & (drawn.targets != IGNORE)).any())
    if known.choosing:
        assert not bool(drawn.swap.mlps[-1].any())
    meant = interpret(known, batch)
    for step, whose in zip(known.steps, meant.whose, strict=True):
        both = heads[step.layer, ..., [head.index for head in step.heads]] & step.rows(batch.slots)[..., None]
        alone = both.any(dim=-1) & ~both.all(dim=-1)
        assert bool(alone.any())
        assert bool((whose == whose.roll(1, dims=0))[alone].all())


def test_training_lowers_its_loss_and_is_the_same_each_time():
    known = circuit("one hop")
    config = ModelConfig(layers=known.n_layers, heads=known.n_heads, d_model=16, d_head=8)
    settings_ = TrainingConfig(steps=30, batch=32, lr=1e-2, warmup=0, seed=4)
    first, second = (train_strictly(known, config, settings_) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    drawn = draw(known, 64, stream(0, Stream.INTERCHANGED))
    before = interchange_loss(known, PatchedForward(build(config, known.task, seed=4)), drawn)
    assert interchange_loss(known, PatchedForward(first), drawn) < 0.9 * before


@pytest.mark.parametrize("setting", [{"frozen_embedding": True}, {"balanced": True}, {"drop_heads": 0.1}, {"entropy": 1.0}])
def test_settings_that_mean_nothing_to_it_are_refused(setting):
    known = circuit("one hop")
    config = ModelConfig(layers=known.n_layers, heads=known.n_heads, d_model=16, d_head=8)
    with pytest.raises(ConfigError, match=f"interchange training has no {next(iter(setting))}"):
        train_strictly(known, config, TrainingConfig(steps=1, **setting))


# The measure: a compiled circuit obeys its own program, and no other.


def compiled(name):
    """A circuit compiled for the heads that its steps are given to."""
    known = circuit(name)
    specs = {(step.layer, head.index): step.spec for step in known.steps for head in step.heads}
    idle = HeadSpec((), frozenset(), (), {})
    layers = tuple(tuple(specs.get((layer, index), idle) for index in range(known.n_heads)) for layer in range(known.n_layers))
    return known, compile_layers(layers, known.task, normalization=None, sharpness=30.0)[0]


def test_of_too_few_answers_that_change_nothing_is_said():
    known, model = compiled("walk")
    with pytest.raises(ConfigError, match="changes 32 answers or more"):
        interchange_accuracy(known, model, 16)


@pytest.mark.parametrize("name", ["walk", "doubling", "dense walk", "dense chain", "tripling"])
def test_a_compiled_circuit_obeys_its_program(name):
    known, model = compiled(name)
    assert min(interchange_accuracy(known, model, 256).values()) == 1
    assert abs(moved_by_the_rest(known, model, 256)) < 1e-3


@pytest.mark.parametrize("name", ["walk", "tripling"])
def test_heads_of_a_compiled_circuit_look_at_their_sources(name):
    known, model = compiled(name)
    looks = attention_on_sources(known, model, 64)
    assert looks.keys() == {cell for cell, truth in known.truth().items() if truth.status == "confirmed"}
    assert all(on_source > 0.99 and on_others < 0.01 for on_source, on_others in looks.values())


def test_a_circuit_in_other_heads_does_not_obey():
    known, model = compiled("walk")
    moved = {step.heads[0].index: 1 - step.heads[0].index for step in known.steps if step.layer == 1}
    (step,) = (step for step in known.steps if step.layer == 1)
    elsewhere = type(known)(
        known.task,
        tuple(
            each if each is not step else type(step)(1, step.spec, (HeadId(1, moved[step.heads[0].index]),))
            for each in known.steps
        ),
        known.n_layers,
        known.n_heads,
    )
    found = interchange_accuracy(elsewhere, model, 256)
    assert found["plain"] == 1
    assert found["the rest"] < 0.7
    assert found[f"L1H{moved[step.heads[0].index]} @query"] < 0.1
    assert moved_by_the_rest(elsewhere, model, 256) > 0.3


# What is stored.


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_obey_on_fresh_examples(name, checkpoints):
    known = load_known(checkpoints / "known" / name)
    assert min(known.accuracy.values()) >= BAR
    assert min(interchange_accuracy(known.assigned, known.model, 512, seed=1).values()) > 0.97


def test_all_shipped_models_load_and_every_step_has_a_head_of_its_own(checkpoints):
    models = known_models(checkpoints / "known")
    assert len({known.name for known in models}) >= 16
    for known in models:
        heads = [head for step in known.assigned.steps for head in step.heads]
        assert len(set(heads)) == len(heads)
        confirmed = {cell for cell, truth in known.truth.items() if truth.status == "confirmed"}
        assert {head for head, _ in confirmed} == set(heads)
        assert sum(file.stat().st_size for file in (checkpoints / "known" / known.name).iterdir()) <= 2**20


def test_a_record_is_read_as_it_was_written(checkpoints, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoints / "known" / SHIPPED[0], folder)
    before = load_known(folder)
    write_record(folder, before.assigned, before.accuracy, 0.0, 64)
    after = load_known(folder)
    assert (after.assigned, after.accuracy, after.truth) == (before.assigned, before.accuracy, before.truth)


def low(record):
    record["accuracy"]["plain"] = BAR - 0.001


def no_accuracy(record):
    record["accuracy"] = {}


def head_of_another(record):
    record["steps"][0]["heads"] = [9]


def no_place(record):
    record["steps"][0]["destinations"] = ["somewhere"]


def unwritten(record):
    record["steps"][-1]["copies"] = [["f7", "f8"]]


def too_early(record):
    for step in record["steps"]:
        step["layer"] = 0


def no_steps(record):
    del record["steps"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (low, "every interchange must be right in 99% of answers, plain: 0.989"),
        (no_accuracy, "none at all: 0.0"),
        (head_of_another, r"steps belong to heads of the model, .* got layer 0, heads \(9,\)"),
        (no_place, "is damaged at steps.0.destinations"),
        (unwritten, r"a step of layer 1 reads what earlier layers write, .*f0.*, got f7: train it again"),
        (too_early, r"a step of layer 0 reads what earlier layers write, f0, position, got f"),
        (no_steps, "is damaged at steps"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_record_that_proves_nothing_is_refused(damage, says, checkpoints, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoints / "known" / SHIPPED[0], folder)
    record_ = json.loads((folder / "known.json").read_text())
    damage(record_)
    (folder / "known.json").write_text(json.dumps(record_))
    with pytest.raises(CheckpointError, match=says) as caught:
        load_known(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_known_model_is_refused(checkpoints, tmp_path):
    with pytest.raises(CheckpointError, match="must be a JSON file, there is none"):
        load_known(checkpoints / "cycle-d4-l3")
    with pytest.raises(CheckpointError, match="holds none: check the path"):
        known_models(tmp_path)
    with pytest.raises(ConfigError, match="shares are 1 to 3 heads for each of 3 layers"):
        assign(CHAIN, statements(CHAIN, one_hop_per_layer(2)), 0, [1, 4, 1])


def test_heads_are_given_by_the_seed():
    orders = {
        tuple(step.heads for step in assign(CHAIN, statements(CHAIN, one_hop_per_layer(2)), seed, [2, 2, 2]).steps)
        for seed in range(8)
    }
    assert len(orders) > 1
