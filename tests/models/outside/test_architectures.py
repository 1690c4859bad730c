"""Every architecture that docs/guides/model.md names: logits and an ablation against plain hooks of transformers' own."""

import sys
from pathlib import Path

import pytest
from transformers import StableLmConfig, StableLmForCausalLM

from stackheads.errors import ConfigError
from stackheads.models import bridge

sys.path.append(str(Path(__file__).parents[3] / "analyses"))

from architectures import ARCHITECTURES, tried


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:running the model through its own hooks")
def test_a_bridge_is_the_model_and_edits_are_its_own(name):
    row = tried(name, explain=False)
    assert row["logits"] < 1e-5
    assert row["ablation"] < 1e-5
    assert row["moved"] > 0.1
    assert row["rows"] >= 16


def test_a_bridge_with_other_logits_is_refused():
    """TransformerLens takes a head's six numbers for six that turn, where transformers turns one of them."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    theirs = StableLmForCausalLM(StableLmConfig(**sizes, vocab_size=20, intermediate_size=32, initializer_range=0.5)).eval()
    with pytest.raises(ConfigError, match=r"a bridge must give the model's logits, .* around StableLmForCausalLM is off by"):
        bridge(theirs)
