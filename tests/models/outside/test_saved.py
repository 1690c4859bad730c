"""GPT-2 as `save_pretrained` leaves it: every setting is honoured or refused by name, wherever the weights lie."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from stackheads import analyze, load
from stackheads.errors import CheckpointError, ConfigError, StackheadsWarning
from stackheads.models import Gpt2Settings, from_gpt2, load_gpt2, read_state_dict, to_gpt2
from stackheads.models.outside.settings import read_settings
from stackheads.tasks import Retrieval

TASK = Retrieval(chains=2, max_hops=1, attention_dir="causal")
SIZES = {"vocab_size": TASK.d_vocab_out, "n_positions": TASK.n_ctx, "n_embd": 16, "n_layer": 2, "n_head": 2}
SETTINGS = {
    "as it comes": {},
    "relu": {"activation_function": "relu"},
    "gelu": {"activation_function": "gelu"},
    "silu": {"activation_function": "silu"},
    "gelu_fast": {"activation_function": "gelu_fast"},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "epsilon": {"layer_norm_epsilon": 0.1},
    "unscaled": {"scale_attn_weights": False},
    "by layer": {"scale_attn_by_inverse_layer_idx": True},
    "unscaled by layer": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "narrow MLP": {"n_inner": 24},
    "untied": {"tie_word_embeddings": False},
    "four heads": {"n_head": 4},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*answers its task no better than chance")


def saved(folder, seed=0, kind=GPT2LMHeadModel, shards=None, **changes):
    """A GPT-2 with weights that matter, saved into a folder, and the model itself."""
    torch.manual_seed(seed)
    model = kind(GPT2Config(**SIZES | changes, bos_token_id=0, eos_token_id=0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder, **({} if shards is None else {"max_shard_size": shards}))
    return model


def tokens(seed=0):
    return torch.randint(TASK.d_vocab_out, (5, TASK.n_ctx), generator=torch.Generator().manual_seed(seed))


def close(ours, theirs, seed=0):
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens(seed)), theirs(tokens(seed)).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_is_honoured(tmp_path, changes):
    theirs = saved(tmp_path, **changes)
    task = TASK
    close(load_gpt2(tmp_path, task), theirs)
    close(load_gpt2(tmp_path / "model.safetensors", task), theirs)


@given(st.lists(st.sampled_from(list(SETTINGS)), max_size=4), st.integers(0, 1000))
@settings(max_examples=10)
def test_settings_are_honoured_together(tmp_path_factory, names, seed):
    folder = tmp_path_factory.mktemp("gpt2")
    theirs = saved(folder, seed, **{key: value for name in names for key, value in SETTINGS[name].items()})
    close(load_gpt2(folder, TASK), theirs, seed)


def test_what_a_config_says_can_be_said_by_hand(tmp_path):
    theirs = saved(tmp_path, activation_function="relu", layer_norm_epsilon=0.1, scale_attn_weights=False)
    (tmp_path / "config.json").unlink()
    by_hand = Gpt2Settings(activation="relu", epsilon=0.1, unscaled=True)
    close(load_gpt2(tmp_path, TASK, 2, settings=by_hand), theirs)
    with torch.no_grad():
        plain = load_gpt2(tmp_path, TASK, 2)(tokens())
    assert (plain - theirs(tokens()).logits).abs().max() > 0.1  # it matters


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickles"])
def test_shards_are_put_together(tmp_path, pickled):
    theirs = saved(tmp_path, shards="4KB")
    index = tmp_path / "model.safetensors.index.json"
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    if pickled:
        for shard in shards:
            torch.save(load_file(shard), shard.with_suffix(".bin"))
            shard.unlink()
        index.rename(tmp_path / "pytorch_model.bin.index.json")
        index = tmp_path / "pytorch_model.bin.index.json"
        index.write_text(index.read_text().replace(".safetensors", ".bin"))
        shards = sorted(tmp_path.glob("model-*.bin"))
    close(load_gpt2(tmp_path, TASK, allow_pickle=pickled), theirs)
    close(load_gpt2(index, TASK, allow_pickle=pickled), theirs)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=f"names the shard {shards[1].name}, which is not beside it: copy all shards"):
        load_gpt2(tmp_path, TASK, allow_pickle=pickled)


def test_an_index_never_leads_out_of_its_folder(tmp_path):
    saved(tmp_path / "model")
    index = tmp_path / "model" / "other.index.json"
    shutil.move(tmp_path / "model" / "model.safetensors", tmp_path / "model.safetensors")
    index.write_text(json.dumps({"weight_map": {"wte.weight": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names the shard \.\./model\.safetensors, which is not beside it"):
        read_state_dict(index)
    index.write_text(json.dumps({"weight_map": []}))
    with pytest.raises(CheckpointError, match="must list each tensor's file"):
        read_state_dict(index)


@pytest.mark.parametrize("keys", [["net"], ["model"], ["a", "b", "c"], ["state", "module"]])
def test_weights_may_lie_under_any_key(tmp_path, keys):
    state = dict(saved(tmp_path / "model").state_dict())
    content = state
    for key in reversed(keys):
        content = {key: content}
    content |= {"optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}, "epoch": 3}
    torch.save(content, tmp_path / "run.pt")
    found = read_state_dict(tmp_path / "run.pt", allow_pickle=True)
    assert found.keys() == state.keys()
    torch.save({"model": state, "average": state}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match="holds weights under 'model' and 'average': save one of them"):
        read_state_dict(tmp_path / "two.pt", allow_pickle=True)


@pytest.mark.parametrize("name", ["lm_head.weight", "transformer.wte.weight"])
def test_a_tied_weight_saved_once_is_both(tmp_path, name):
    theirs = saved(tmp_path)
    state = {key: value for key, value in theirs.state_dict().items() if key != name}
    assert len(state) == len(theirs.state_dict()) - 1
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "model.safetensors")
    close(load_gpt2(tmp_path, TASK), theirs)
    close(from_gpt2(state, 2), theirs)


def rewrite(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "llama"}, "says model_type 'llama', which cannot be honoured"),
        ({"activation_function": "mish"}, "says activation_function 'mish', which cannot be honoured"),
        ({"add_cross_attention": True}, "says add_cross_attention, which cannot be honoured"),
        ({"n_layer": 3}, "says n_layer = 3, the weights have 2"),
        ({"n_embd": 32}, "says n_embd = 32, the weights have 16"),
        ({"n_inner": 7}, "says n_inner = 7, the weights have 64"),
        ({"n_positions": 99}, "says n_positions = 99, the weights have"),
        ({"vocab_size": 5}, "says vocab_size = 5, the weights have"),
        ({"n_head": 3}, "heads must divide the width of the model, 16, got 3"),
        ({"n_head": "two"}, "n_head"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon"),
        ({"tie_word_embeddings": False, "architectures": ["GPT2Model"]}, "outputs are not tied, and there is no lm_head"),
    ],
)
def test_a_config_that_cannot_be_honoured_or_contradicts_the_weights_is_refused(tmp_path, changes, says):
    saved(tmp_path, kind=GPT2Model)
    rewrite(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=says):
        load_gpt2(tmp_path, TASK)


def test_other_things_beside_weights_are_said_by_name(tmp_path):
    theirs = saved(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.json says heads = 2, got 4: leave the option out"):
        load_gpt2(tmp_path, TASK, 4)
    with pytest.raises(ConfigError, match=r"config\.json says epsilon = 1e-05, got 0\.1"):
        load_gpt2(tmp_path, TASK, settings=Gpt2Settings(epsilon=0.1))
    close(load_gpt2(tmp_path, TASK, 2, settings=Gpt2Settings(epsilon=1e-5)), theirs)
    (tmp_path / "config.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="is no GPT-2's, it has no model_type and no n_head: move it away"):
        load_gpt2(tmp_path, TASK)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="does not tell its number of heads, got none: give n_heads, or --heads N"):
        load_gpt2(tmp_path, TASK)
    state = {name: value.clone() for name, value in theirs.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"one lm_head\.weight, this has lm_head\.weight and other\.lm_head\.weight"):
        from_gpt2(state | {"other.lm_head.weight": state["lm_head.weight"]}, 2)
    with pytest.raises(CheckpointError, match=r"outputs are tied, and lm_head\.weight is not wte\.weight"):
        from_gpt2(state | {"lm_head.weight": state["lm_head.weight"] + 1}, 2, settings=Gpt2Settings(tied=True))
    with pytest.raises(CheckpointError, match="on the meta device"):
        from_gpt2(state | {"transformer.wpe.weight": state["transformer.wpe.weight"].to("meta")}, 2)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="is a Git LFS pointer and not the weights themselves"):
        load_gpt2(tmp_path, TASK, 2)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"a model's folder has model\.safetensors, an index or"):
        load_gpt2(tmp_path, TASK, 2)


@pytest.mark.parametrize("settings", [{"activation": "mish"}, {"epsilon": -1.0}, {"epsilon": float("nan")}])
def test_settings_that_are_none_are_refused(settings):
    with pytest.raises(ConfigError, match=r"an activation is one of|epsilon is what LayerNorm adds"):
        Gpt2Settings(**settings)


def test_a_trained_model_saved_by_transformers_gets_its_labels_and_a_wrong_setting_a_warning(checkpoints, tmp_path):
    """A checkpoint as a GPT-2 whose attention is not scaled: queries that are larger by the root of the heads' width."""
    checkpoint = load(checkpoints / "chain-d4-l4")
    task, state = checkpoint.task, to_gpt2(checkpoint.model)
    width = checkpoint.model.cfg.d_model
    for name in list(state):
        if "c_attn" in name:
            state[name] = state[name].clone()
            state[name][..., :width] /= checkpoint.model.cfg.d_head**0.5
    config = GPT2Config(
        vocab_size=task.d_vocab, n_positions=task.n_ctx, n_embd=width, n_layer=4, n_head=4, scale_attn_weights=False,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config)
    theirs.lm_head = torch.nn.Linear(width, task.d_vocab_out, bias=False)
    theirs.load_state_dict(state)
    theirs.save_pretrained(tmp_path)
    model = load_gpt2(tmp_path, task)
    found = analyze(model, task, examples=128, progress=False, explain=False)
    expected = analyze(checkpoint, examples=128, progress=False, explain=False)
    assert found.hops == expected.hops != {}
    (tmp_path / "config.json").unlink()
    with pytest.warns(StackheadsWarning, match="answers its task no better than chance .*: are its 2 heads"):
        load_gpt2(tmp_path, task, 2)


def test_settings_without_a_config_are_none(tmp_path):
    assert read_settings(tmp_path / "model.safetensors") is None
