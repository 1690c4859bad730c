"""A GPT-2 state dict gives the model that transformers computes, in both layouts; files that are none end in one line."""

import pickle
from inspect import unwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from stackheads import analyze
from stackheads.errors import CheckpointError, TaskMismatchError
from stackheads.interventions import recorded, rerun
from stackheads.models import from_gpt2, load_gpt2, read_state_dict
from stackheads.models.forwards.fused import FusedForward, supported
from stackheads.models.hooks import HeadEdit, run_edited
from stackheads.tasks import Cycle, KHopInduction, Retrieval
from stackheads.types import HeadId

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def gpt2(kind=GPT2Model, seed=0, layers=2, heads=2, width=16, vocabulary=11, activation="gelu_new"):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=13, n_embd=width, n_layer=layers, n_head=heads, activation_function=activation
    )
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def as_nanogpt(state):
    """The same weights as nanoGPT stores them: Linear instead of Conv1D, below `transformer`, compiled."""
    turned = {name: value.T if name.endswith(TRANSPOSED) else value for name, value in state.items()}
    named = {f"_orig_mod.transformer.{name}": value for name, value in turned.items()}
    return named | {"_orig_mod.lm_head.weight": state["wte.weight"]}


@settings(max_examples=12)
@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from([(1, 8), (2, 16), (4, 16)]), st.booleans())
def test_it_computes_what_transformers_computes(seed, layers, shape, nanogpt):
    heads, width = shape
    theirs = gpt2(seed=seed, layers=layers, heads=heads, width=width, activation="gelu" if nanogpt else "gelu_new")
    tokens = torch.randint(11, (3, 13), generator=torch.Generator().manual_seed(seed))
    state = as_nanogpt(theirs.state_dict()) if nanogpt else theirs.state_dict()
    with torch.no_grad():
        hidden = theirs(tokens).last_hidden_state
        for unembed, expected in (
            ("identity", hidden),
            ("tied", hidden @ theirs.wte.weight.T),
            (torch.ones(5, width), hidden @ torch.ones(width, 5)),
        ):
            model = from_gpt2(state, heads, unembed)
            torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=1e-4)
            assert supported(model)
            torch.testing.assert_close(FusedForward(model)(tokens), expected, atol=1e-4, rtol=1e-4)


def test_a_prefix_and_a_head_for_language_do_not_matter():
    theirs = gpt2(GPT2LMHeadModel)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_gpt2(theirs.state_dict(), 2)(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_a_bias_of_the_outputs_is_theirs_too(tied):
    theirs = gpt2()
    state, head = theirs.state_dict(), torch.nn.Linear(16, 11)
    if tied:
        head.weight = theirs.wte.weight
    else:
        state["lm_head.weight"] = head.weight
    state["lm_head.bias"] = head.bias
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        expected = head(theirs(tokens).last_hidden_state)
        torch.testing.assert_close(from_gpt2(state, 2)(tokens), expected, atol=1e-4, rtol=1e-4)
        first = from_gpt2(state, 2, vocabulary=(11, 7))(tokens)
        torch.testing.assert_close(first, expected[..., :7], atol=1e-4, rtol=1e-4)


def test_masks_that_older_versions_saved_are_no_weights():
    state = gpt2().state_dict()
    masks = {"h.0.attn.bias": torch.ones(1, 1, 13, 13).tril().bool(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    tokens = torch.arange(10)[None]
    assert torch.equal(from_gpt2(state | masks, 2)(tokens), from_gpt2(state, 2)(tokens))


OTHERS = [
    "h.0.attn.q_norm.weight",
    "h.1.mlp.c_gate.weight",
    "h.0.attn.c_attn.lora_A.weight",
    "h.0.attn.c_attn.lora_A",
    "h.1.mlp.c_fc.weight_scale",
    "wte.lora_embedding_A.default",
    "h.0.crossattention.c_attn.weight",
]


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("name", OTHERS)
def test_weights_that_would_be_left_out_are_refused(name, prefix):
    state = {f"{prefix}{each}": value for each, value in gpt2().state_dict().items()}
    with pytest.raises(CheckpointError, match=f"computes with all of its weights, and {name} is none of them"):
        from_gpt2(state | {f"{prefix}{name}": torch.ones(16, 16)}, 2)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda state: gpt2(), r"given by its state dict, got GPT2Model: give its \.state_dict"),
        (
            lambda state: state | {"wte.weight": (100 * state["wte.weight"]).to(torch.int8)},
            "floating-point numbers, wte.weight",
        ),
        (
            lambda state: state | {"h.0.ln_1.weight": state["h.0.ln_1.weight"].to(torch.complex64)},
            "h.0.ln_1.weight is torch.com",
        ),
        (lambda state: state | {"wpe.weight": state["wpe.weight"].numpy()}, "wpe.weight is ndarray"),
    ],
)
def test_what_holds_no_floating_point_numbers_is_refused(change, rule):
    with pytest.raises(CheckpointError, match=rule):
        unwrap(from_gpt2)(change(gpt2().state_dict()), 2)


def test_an_imported_model_takes_the_fast_path():
    task = Retrieval(chains=2, max_hops=1, attention_dir="causal")
    model = from_gpt2(gpt2(vocabulary=task.d_vocab).state_dict(), 2)
    clean = recorded(model, task.sample(3, torch.Generator().manual_seed(0)))
    edit = HeadEdit(HeadId(0, 1), clean.batch.slots == 1, torch.zeros_like(clean.run.z[0, :, :, 1]))
    assert clean.run.q is not None
    expected = run_edited(model, clean.batch.tokens, [edit])
    torch.testing.assert_close(rerun(model, clean, [edit]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "heads", "message"),
    [
        (lambda state: {}, 2, r"one wpe\.weight, this has nothing"),
        (lambda state: {"encoder.weight": state["wte.weight"]}, 2, "this has encoder.weight"),
        (lambda state: {name: value for name, value in state.items() if "c_fc" not in name}, 2, r"has h\.0\.mlp\.c_fc\.weight"),
        (lambda state: {name: value for name, value in state.items() if not name.startswith("h.0")}, 2, r"layers h\.0"),
        (
            lambda state: state | {"h.0.attn.c_attn.weight": torch.ones(16, 40)},
            2,
            r"c_attn\.weight must have shape \(16, 48\) in this GPT-2, got \(16, 40\)",
        ),
        (
            lambda state: state | {"h.1.ln_1.weight": torch.ones(7)},
            2,
            r"h\.1\.ln_1\.weight must have shape \(16,\) in this GPT-2, got \(7,\)",
        ),
        (lambda state: state, 3, "heads must divide the width of the model, 16, got 3"),
        (lambda state: state, 0, "heads must divide"),
    ],
)
def test_other_state_dicts_are_refused(change, heads, message):
    with pytest.raises(CheckpointError, match=message):
        from_gpt2(change(dict(gpt2().state_dict())), heads)


NAMES = sorted(gpt2().state_dict())
WRONG = st.sampled_from([(7,), (16,), (16, 16), (3, 16), (16, 3), (2, 3, 4), ()])


@settings(max_examples=60)
@given(st.sampled_from(NAMES), WRONG, st.booleans())
def test_a_tensor_of_another_shape_is_refused_or_one_that_a_gpt2_may_have(name, shape, nanogpt):
    """Never an error of another kind. What may vary: number of tokens and positions."""
    state = dict(gpt2().state_dict()) | {name: torch.ones(shape)}
    try:
        model = from_gpt2(as_nanogpt(state) if nanogpt and len(shape) == 2 else state, 2)
    except CheckpointError:
        return
    assert model(torch.zeros(1, 3, dtype=torch.long)).isfinite().all()
    assert name in ("wte.weight", "wpe.weight") or shape == gpt2().state_dict()[name].shape


def test_weights_that_are_not_finite_are_refused():
    state = dict(gpt2().state_dict())
    state["h.1.mlp.c_fc.weight"] = state["h.1.mlp.c_fc.weight"] * torch.inf
    with pytest.raises(CheckpointError, match=r"finite, h\.1\.mlp\.c_fc\.weight holds NaN or infinity"):
        from_gpt2(state, 2)


def test_outputs_go_through_the_head_for_language_where_it_is_not_tied():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=13, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=False)
    theirs, tokens = GPT2LMHeadModel(config).eval(), torch.arange(10)[None]
    assert not torch.equal(theirs.lm_head.weight, theirs.transformer.wte.weight)
    with torch.no_grad():
        torch.testing.assert_close(from_gpt2(theirs.state_dict(), 2)(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unembed", ["tied", "identity"])
def test_a_larger_vocabulary_and_a_longer_context_fit_and_answer_the_same(tmp_path, unembed):
    task = KHopInduction(context=9, symbols=3, max_hops=2)
    theirs = gpt2(vocabulary=30)
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, tmp_path / "wide.safetensors")
    model = load_gpt2(tmp_path / "wide.safetensors", task, 2, unembed)
    tokens = task.sample(5, torch.Generator().manual_seed(0)).tokens
    with torch.no_grad():
        hidden = theirs(tokens).last_hidden_state
    expected = hidden if unembed == "identity" else hidden @ theirs.wte.weight.T
    torch.testing.assert_close(model(tokens), expected[..., : task.d_vocab_out], atol=1e-4, rtol=1e-4)
    assert analyze(model, task, examples=16, progress=False, explain=False).model["name"] == "wide"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (KHopInduction(context=9, symbols=8, max_hops=2), "needs d_vocab = 13, the model has 11"),
        (KHopInduction(context=14, symbols=3, max_hops=2), "needs a context of 14 tokens, the model has 13"),
        (Cycle(symbols=4, max_hops=1), "needs attention_dir = bidirectional, the model has causal"),
    ],
)
def test_a_task_that_the_model_cannot_be_asked_is_refused(tmp_path, task, says):
    save_file({name: value.contiguous() for name, value in gpt2().state_dict().items()}, tmp_path / "small.safetensors")
    with pytest.raises(TaskMismatchError, match=says):
        load_gpt2(tmp_path / "small.safetensors", task, 2)


def test_files(tmp_path):
    state = {name: value.contiguous() for name, value in gpt2().state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    torch.save({"model": state, "iter_num": 3}, tmp_path / "ckpt.pt")
    for found in (read_state_dict(tmp_path / "model.safetensors"), read_state_dict(tmp_path / "ckpt.pt", allow_pickle=True)):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    (tmp_path / "cut.pt").write_bytes((tmp_path / "ckpt.pt").read_bytes()[:1000])
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in {
        "ckpt.pt": "add --allow-pickle",
        "cut.safetensors": "must be a safetensors file",
        "none.safetensors": "a state dict is a file or a folder",
        "model.onnx": "a state dict is a file or a folder",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_state_dict(tmp_path / name)
    for name, message in {"cut.pt": "must hold plain tensors", "list.pt": "it holds a list"}.items():
        with pytest.raises(CheckpointError, match=message):
            read_state_dict(tmp_path / name, allow_pickle=True)


class Hostile:
    """A pickle that makes a folder where it is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.target),)


def test_a_pickle_that_would_run_code_is_refused_without_a_trace(tmp_path):
    target, file = tmp_path / "was-here", tmp_path / "hostile.pt"
    torch.save({"wte.weight": torch.ones(2, 2), "more": Hostile(target)}, file)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile(target), protocol=2))
    for path in (file, tmp_path / "plain.pt"):
        with pytest.raises(CheckpointError, match="must hold plain tensors"):
            read_state_dict(path, allow_pickle=True)
        assert not target.exists()
    pickle.loads(pickle.dumps(Hostile(target)))  # it would have
    assert target.exists()
