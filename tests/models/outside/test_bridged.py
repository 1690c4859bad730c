"""A `TransformerBridge` of a language model computes what transformers computes, and its heads are edited one at a time."""

from dataclasses import replace

import pytest
import torch
from random_models import make_edit, marks
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.interventions import ablate, patch, recorded, run_variants, sweep_positions
from stackheads.models import ModelConfig, bridge, from_gpt2, to_gpt2
from stackheads.models.forwards.patterned import Patterned
from stackheads.models.hooks import HeadEdit, record, run_edited
from stackheads.tasks import KHopInduction
from stackheads.types import HeadId

HEADS, GROUPS, D_HEAD = 6, 2, 4


def enlarged(model, seed=1):
    """Weights large enough to make every path matter."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + number)))
    return model.eval()


def llama(vocabulary=30, context=32):
    """A small language model with rotary positions, gated MLPs, RMSNorm and grouped queries."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HEADS * D_HEAD,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        max_position_embeddings=context,
        attn_implementation="eager",
    )
    return enlarged(LlamaForCausalLM(config))


def gpt2(task):
    config = GPT2Config(vocab_size=task.d_vocab, n_positions=task.n_ctx, n_embd=16, n_layer=2, n_head=2)
    return enlarged(GPT2LMHeadModel(config))


@pytest.fixture
def tokens(generator):
    return torch.randint(30, (3, 9), generator=generator)


def test_logits_and_patterns_are_those_of_transformers(tokens):
    theirs = llama()
    with torch.no_grad():
        expected = theirs(tokens, output_attentions=True)
    run = record(bridge(theirs), tokens)
    torch.testing.assert_close(run.logits, expected.logits, atol=1e-5, rtol=1e-5)
    for layer, pattern in enumerate(expected.attentions):
        torch.testing.assert_close(run.pattern[layer], pattern, atol=1e-6, rtol=1e-6)


def test_with_answers_the_logits_are_a_selection(tokens):
    theirs = llama()
    with torch.no_grad():
        expected = theirs(tokens).logits
    model = bridge(theirs, answers=[7, 2, 29])
    assert model.cfg.d_vocab_out == 3
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), expected[..., [7, 2, 29]], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs(tokens).logits, expected, atol=1e-5, rtol=1e-5)  # left as it was


def test_each_head_is_recorded_with_the_values_it_reads(tokens):
    """z = pattern · v for every query head, though only `GROUPS` heads have values of their own."""
    run = record(bridge(llama()), tokens)
    assert run.v.shape == (3, 3, 9, HEADS, D_HEAD)
    torch.testing.assert_close(torch.einsum("lbhps,lbshd->lbphd", run.pattern, run.v), run.z, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", [HeadId(0, 0), HeadId(1, 4), HeadId(2, 5)])
def test_ablating_a_head_is_replacing_its_slice_before_o_proj(tokens, head):
    """By a plain forward hook on transformers' own module; heads of the same group are left alone."""
    theirs, new = llama(), torch.randn(3, 9, D_HEAD, generator=torch.Generator().manual_seed(3))
    rows = torch.zeros(3, 9, dtype=torch.bool)
    rows[:, 4:] = True
    place = slice(head.index * D_HEAD, (head.index + 1) * D_HEAD)

    def replace(module, inputs):
        value = inputs[0].clone()
        value[..., place] = torch.where(rows[..., None], new, value[..., place])
        return (value,)

    handle = theirs.model.layers[head.layer].self_attn.o_proj.register_forward_pre_hook(replace)
    with torch.no_grad():
        expected = theirs(tokens).logits
    handle.remove()
    model = bridge(theirs)
    torch.testing.assert_close(run_edited(model, tokens, [HeadEdit(head, rows, new)]), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model(tokens), expected, atol=1e-2)


def test_patching_a_run_with_itself_changes_nothing(generator):
    task = KHopInduction(max_hops=2, context=10, symbols=4)
    model = bridge(llama(task.d_vocab, task.n_ctx))
    clean = recorded(model, task.sample(4, generator))
    same = patch(model, clean, clean, [HeadId(0, 1), HeadId(2, 3)])
    torch.testing.assert_close(same, clean.run.logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ablate(model, clean, [HeadId(0, 1)], "value"), clean.run.logits, atol=1e-2)


class OwnAnswers(KHopInduction):
    """A task in which a model is right by definition, so that there is something for ablations to destroy."""

    def by(self, model):
        self.__dict__["model"] = model
        return self

    def sample(self, n, generator):
        batch = super().sample(n, generator)
        with torch.no_grad():
            said = self.__dict__["model"](batch.tokens).argmax(dim=-1, keepdim=True)
        return replace(batch, targets=said.where(batch.targets >= 0, batch.targets))


def test_a_bridge_is_analysed_like_the_equal_hooked_transformer():
    """Two roads to one GPT-2: transformers' own through a bridge, and its state dict through `from_gpt2`."""
    task = OwnAnswers(max_hops=1, context=10, symbols=4)
    theirs = gpt2(task)
    hooked = from_gpt2(theirs.state_dict(), n_heads=2)
    one, other = (
        analyze(model, task.by(hooked), examples=64, progress=False, explain=False) for model in (hooked, bridge(theirs))
    )
    assert one.readouts["open"].any()
    assert (one.labels["effect"].abs() > 0.02).any()
    assert list(one.labels["status"]) == list(other.labels["status"])
    assert one.labels["looks_like"].equals(other.labels["looks_like"])
    for column in ("pattern", "effect", "effect_low", "effect_high"):
        assert (one.labels[column] - other.labels[column]).abs().max() < 1e-4
    assert (one.effects["effect"] - other.effects["effect"]).abs().max() < 1e-4


@pytest.mark.parametrize("answers", [[], [30], [-1]])
def test_an_answer_that_is_no_token_is_refused(answers):
    with pytest.raises(ConfigError, match="answers must be tokens of the model"):
        bridge(llama(), answers=answers)


def test_an_unknown_architecture_is_refused():
    class Unknown(torch.nn.Module):
        config = LlamaConfig()

    with pytest.raises(ConfigError, match="got Unknown"):
        bridge(Unknown())


PLACES = [
    [(0, 1, "z", "value")],
    [(1, 4, "z", "query"), (2, 0, "pattern", "query")],
    [(2, 5, "z", "everywhere")],
    [(0, 3, "pattern", "one"), (1, 2, "z", "first")],
    [(0, 0, "z", "none")],
]


@pytest.mark.parametrize("read", ["all", "last"])
def test_the_engine_equals_one_hooked_run_for_each_intervention(generator, read):
    """A Llama is run from the middle by `models/forwards/rotary.py`; the hooked path is the truth."""
    task = KHopInduction(max_hops=2, context=10, symbols=4)
    model = bridge(llama(task.d_vocab, task.n_ctx))
    clean = recorded(model, task.sample(5, generator))
    shape = ModelConfig(layers=3, heads=HEADS, d_head=D_HEAD)
    variants = [[make_edit(clean.batch, shape, place, generator) for place in some] for some in PLACES]
    wanted = marks(read, task.n_ctx)
    rows = slice(None) if wanted is None else wanted
    for edits, logits in zip(variants, run_variants(model, clean, variants, read=wanted, memory=10**5), strict=True):
        torch.testing.assert_close(logits[:, rows], run_edited(model, clean.batch.tokens, edits)[:, rows], atol=1e-4, rtol=1e-4)


def test_runs_of_a_llama_whose_patterns_are_all_given_are_its_own(generator):
    """With as many values as heads, though several heads share one."""
    task = KHopInduction(max_hops=2, context=10, symbols=4)
    model = bridge(llama(task.d_vocab, task.n_ctx))
    clean = recorded(model, task.sample(3, generator))
    assert clean.hooked is None
    everywhere = torch.ones_like(clean.batch.slots, dtype=torch.bool)
    patterned = Patterned(model, clean.batch.tokens, clean.run, everywhere, hooked=False)
    silent = torch.zeros(3, *everywhere.shape, HEADS, dtype=torch.bool)
    torch.testing.assert_close(patterned.logits(clean.run.pattern, silent), clean.run.logits, atol=1e-4, rtol=1e-4)


def test_a_sweep_over_positions_equals_hooked_runs(generator):
    task = KHopInduction(max_hops=2, context=6, symbols=4)
    model = bridge(llama(task.d_vocab, task.n_ctx))
    clean, other = (recorded(model, task.sample(2, generator)) for _ in range(2))
    for cell in list(sweep_positions(model, clean, other.run.z))[::11]:
        rows = torch.zeros_like(clean.batch.slots, dtype=torch.bool)
        rows[:, cell.position] = True
        expected = run_edited(model, clean.batch.tokens, [HeadEdit(cell.head, rows, other.run.of(cell.head)[2])])
        torch.testing.assert_close(cell.logits, expected, atol=1e-4, rtol=1e-4)


def test_a_bridge_is_not_written_as_a_gpt2():
    task = KHopInduction(max_hops=2, symbols=4, context=12)
    with pytest.raises(ConfigError, match="got a TransformerBridge around GPT2LMHeadModel: save what it wraps"):
        to_gpt2(bridge(gpt2(task)))


def test_pads_are_kept_out_by_the_models_own_mask(tokens):
    """At the right, where positions count from the left: what is there is computed as without them."""
    theirs = gpt2(KHopInduction(max_hops=2, context=12, symbols=27))
    for model in (bridge(theirs), bridge(llama())):
        padded = torch.cat([tokens, torch.full((3, 3), 29)], dim=1)
        run = record(model, padded, torch.arange(12).expand(3, -1) >= 9)
        torch.testing.assert_close(run.logits[:, :9], record(model, tokens).logits, atol=1e-5, rtol=1e-5)
        assert bool((run.pattern[..., :9, 9:] == 0).all())
