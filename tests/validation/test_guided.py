"""A guided beginning of interchange training: what it asks of attention, and that it asks nothing else."""

import json
import math
from functools import partial

import pytest
import torch

from stackheads.errors import ConfigError
from stackheads.models import ModelConfig, build
from stackheads.models.forwards.patched import PatchedForward
from stackheads.models.hooks import record
from stackheads.programs.mechanisms import tripling
from stackheads.seeds import Stream, stream
from stackheads.tasks import Cycle, KHopInduction, Retrieval
from stackheads.training.config import TrainingConfig
from stackheads.validation.assigned import assign, statements, strings, walk
from stackheads.validation.exchanged import attention_on_sources
from stackheads.validation.guided import Guidance, Guide, carrying_loss, looking_loss
from stackheads.validation.interpreter import interpret
from stackheads.validation.known import is_guided
from stackheads.validation.strict import draw, interchange_loss, train_strictly
from tests.validation.test_known import compiled

CHAIN = Retrieval(chains=2, max_hops=3, supervision="chain", attention_dir="causal")
RING, STRING = Cycle(symbols=8, max_hops=4), KHopInduction(context=10, symbols=4, max_hops=2)
SMALL = {"d_model": 16, "d_head": 8}
CIRCUITS = {
    "chain": assign(CHAIN, walk(CHAIN), 0, [1, 2, 1, 1]),
    "cycle": assign(RING, statements(RING, tripling(4)), 0),
    "string": assign(STRING, strings(STRING), 0, [1, 3, 1], choosing=True),
}


@pytest.fixture(params=list(CIRCUITS))
def known(request):
    return CIRCUITS[request.param]


def uniform_scores(known, batch):
    """Scores of one number for every pair of positions, and a gradient."""
    n_pos = batch.tokens.shape[1]
    shape = (known.n_layers, len(batch), known.n_heads, n_pos, n_pos)
    return torch.zeros(shape, dtype=torch.float64, requires_grad=True)


def own_rows(known, batch):
    """For each head of a step and destination: the (example, row, source) that are its own, from the program's run."""
    meant = interpret(known, batch)
    for step, whose, source in zip(known.steps, meant.whose, meant.sources, strict=True):
        for number, head in enumerate(step.heads):
            for place in step.spec.rows:
                rows = (batch.slots == place.slot) & (whose == number) & (source >= 0)
                yield head, [(example, row, int(source[example, row])) for example, row in rows.nonzero().tolist()]


def test_even_attention_costs_the_logarithm_of_the_positions_for_each_head_and_destination(known, generator):
    batch = known.task.sample(32, generator)
    scores = uniform_scores(known, batch)
    loss = looking_loss(known, batch, interpret(known, batch), scores.softmax(dim=-1).unbind())
    cells = sum(truth.status == "confirmed" for truth in known.truth().values())
    assert cells == len(list(own_rows(known, batch)))
    assert loss.item() == pytest.approx(cells * math.log(batch.tokens.shape[1]))


def test_its_gradient_draws_own_rows_to_the_source_and_nothing_else(known, generator):
    """That of a softmax's cross-entropy: what is attended less what should be, over the rows that are averaged."""
    batch = known.task.sample(8, generator)
    scores = uniform_scores(known, batch)
    looking_loss(known, batch, interpret(known, batch), scores.softmax(dim=-1).unbind()).backward()
    expected = torch.zeros_like(scores)
    for head, rows in own_rows(known, batch):
        for example, row, source in rows:
            pulled = expected[head.layer, example, head.index, row]
            pulled += (1 / len(pulled) - torch.eye(len(pulled))[source]) / len(rows)
    torch.testing.assert_close(scores.grad, expected.detach())


@pytest.mark.parametrize("name", ["doubling", "dense walk"])
def test_heads_that_look_at_their_sources_are_asked_nothing(name):
    known, model = compiled(name)
    batch = known.task.sample(64, stream(0, Stream.INTERCHANGED))
    patterns = PatchedForward(model).run(batch.tokens)[1].patterns
    assert 0 <= looking_loss(known, batch, interpret(known, batch), patterns) < 0.01


def test_patterns_of_a_run_are_those_of_hooks(known, generator):
    model = build(ModelConfig(layers=known.n_layers, heads=known.n_heads, **SMALL), known.task, seed=1)
    batch = known.task.sample(4, generator)
    outputs = PatchedForward(model).run(batch.tokens)[1]
    torch.testing.assert_close(torch.stack(outputs.patterns), record(model, batch.tokens).pattern)
    assert torch.equal(outputs.rolled(1).patterns[0], outputs.patterns[0].roll(1, dims=0))


def test_a_guide_adds_its_share_to_the_loss_of_interchanges(known):
    forward = PatchedForward(build(ModelConfig(layers=known.n_layers, heads=known.n_heads, **SMALL), known.task, seed=1))
    drawn = draw(known, 32, stream(0, Stream.INTERCHANGE))
    outputs = forward.run(drawn.batch.tokens)[1]
    for kind in ("look", "carry"):
        guidance = Guidance(Guide(until=10, kind=kind), known, forward.model)
        alone, guided = (interchange_loss(known, forward, drawn, help_) for help_ in (None, partial(guidance.loss, 5)))
        added = (
            looking_loss(known, drawn.batch, drawn.meant, outputs.patterns)
            if kind == "look"
            else carrying_loss(known, drawn.batch, drawn.meant, outputs.z, guidance.parameters)
        )
        torch.testing.assert_close(guided, alone + 0.5 * added)


def test_a_probe_that_knows_nothing_costs_the_logarithm_of_the_symbols_and_one_that_is_right_nothing(known, generator):
    """Heads give each symbol that they bring one-hot, each copy in numbers of its own; probes read them there."""
    batch = known.task.sample(32, generator)
    meant, d_vocab = interpret(known, batch), known.task.d_vocab
    z = torch.zeros(known.n_layers, *batch.tokens.shape, known.n_heads, 3 * d_vocab)
    copies, cells = [], 0
    for step, carried in zip(known.steps, meant.carried, strict=True):
        for head, brought in zip(step.heads, carried, strict=True):
            for number, symbol in enumerate(brought):
                part = slice(number * d_vocab, (number + 1) * d_vocab)
                z[step.layer, :, :, head.index, part] = torch.eye(d_vocab)[symbol.clamp(min=0)] * (symbol >= 0)[..., None]
                copies.append(torch.eye(3 * d_vocab)[part])
                cells += len(step.spec.rows)
    nothing, right = (
        carrying_loss(known, batch, meant, z.unbind(), [size * each for each in copies]).item() for size in (0.0, 50.0)
    )
    assert nothing == pytest.approx(cells * math.log(d_vocab), rel=1e-5)
    assert 0 <= right < 1e-6


def test_probes_help_heads_at_their_own_rows_and_nothing_else(known, generator):
    batch = known.task.sample(8, generator)
    model = build(ModelConfig(layers=known.n_layers, heads=known.n_heads, **SMALL), known.task, seed=1)
    shape = (known.n_layers, *batch.tokens.shape, known.n_heads, SMALL["d_head"])
    z = torch.randn(shape, generator=generator).requires_grad_()
    probes = Guidance(Guide(1, kind="carry"), known, model).parameters
    assert not any(probe.any() for probe in probes)
    carrying_loss(
        known, batch, interpret(known, batch), z.unbind(), [probe + torch.eye(*probe.shape) for probe in probes]
    ).backward()
    own = torch.zeros(shape[:-1], dtype=torch.bool)
    for head, rows in own_rows(known, batch):
        for example, row, _ in rows:
            own[head.layer, example, row, head.index] = True
    assert not bool(z.grad[~own].any())
    assert all(bool(probe.grad.any()) for probe in probes)


def test_its_weight_falls_to_nothing():
    guide = Guide(until=4, weight=2.0)
    assert [guide.at(step) for step in range(6)] == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    for wrong in ({"until": 0}, {"until": 5, "weight": 0.0}, {"until": 5, "weight": math.nan}):
        with pytest.raises(ConfigError, match="a guide draws heads to their steps for a number"):
            Guide(**wrong)


def test_guided_heads_look_sooner():
    known = assign(STRING, strings(STRING), 0, choosing=True)
    config = ModelConfig(layers=known.n_layers, heads=known.n_heads, attn_only=False, **SMALL)
    training = TrainingConfig(steps=40, batch=16, lr=1e-2, warmup=0, seed=4)
    alone, guided = (
        attention_on_sources(known, train_strictly(known, config, training, guide), 64) for guide in (None, Guide(40))
    )
    assert all(guided[cell][0] > alone[cell][0] for cell in alone)


def test_the_names_of_guided_models_say_so_and_interchanges_had_the_last_word(checkpoints):
    folders = sorted((checkpoints / "known").iterdir())
    for folder in folders:
        training = json.loads((folder / "config.json").read_text())["training"]
        guide = training.get("guide", {"until": 0, "kind": "none"})
        assert (guide["kind"] == "look") == is_guided(folder.name)
        assert guide["until"] <= training["steps"] / 2
    assert sum(is_guided(folder.name) for folder in folders) >= 4
