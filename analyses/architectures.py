"""Which architectures of transformers can be analysed: tiny random models of each, against plain hooks of transformers' own.

For each: the largest difference of the bridge's logits from the model's; that of the logits with one head's output replaced at
some positions, from those with a forward hook before the model's own output projection; and what `analyze` gives on a task
in words whose right answers are the model's own. Prints a table; with --write it goes to analyses/results/architectures.csv.

    python analyses/architectures.py [--write]
"""

import argparse
import sys
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd
import torch
import transformers
from claims import RESULTS
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.files import write_file
from stackheads.models import bridge
from stackheads.models.hooks import HeadEdit, logits_of, run_edited
from stackheads.tasks import Batch, Prompted
from stackheads.tasks.prompts import Prompts
from stackheads.types import HeadId

HEADS, LAYERS, WIDTH = 4, 2, 32
HEAD = HeadId(1, 2)
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 40}
SMALL = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
GROUPED = SIZES | {"num_key_value_heads": 2}
O_PROJ = "model.layers.1.self_attn.o_proj"
ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "GPT2LMHeadModel": (SMALL, "transformer.h.1.attn.c_proj"),
    "GPTNeoForCausalLM": (
        {"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "attention_types": [[["global"], LAYERS]]},
        "transformer.h.1.attn.attention.out_proj",
    ),
    "GPTNeoXForCausalLM": (SIZES, "gpt_neox.layers.1.attention.dense"),
    "GPTJForCausalLM": (SMALL | {"rotary_dim": 4}, "transformer.h.1.attn.out_proj"),
    "OPTForCausalLM": (
        {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 40, "num_hidden_layers": LAYERS}
        | {"num_attention_heads": HEADS},
        "model.decoder.layers.1.self_attn.out_proj",
    ),
    "BloomForCausalLM": (
        {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
        "transformer.h.1.self_attention.dense",
    ),
    "LlamaForCausalLM": (GROUPED, O_PROJ),
    "MistralForCausalLM": (GROUPED, O_PROJ),
    "Qwen2ForCausalLM": (GROUPED, O_PROJ),
    "Qwen3ForCausalLM": (GROUPED | {"head_dim": 8}, O_PROJ),
    "GemmaForCausalLM": (GROUPED | {"head_dim": 8}, O_PROJ),
    "Gemma2ForCausalLM": (GROUPED | {"head_dim": 8}, O_PROJ),
    "OlmoForCausalLM": (SIZES, O_PROJ),
    "Olmo2ForCausalLM": (SIZES, O_PROJ),
    "PhiForCausalLM": (SIZES, "model.layers.1.self_attn.dense"),
    "Phi3ForCausalLM": (GROUPED, O_PROJ),
    "StableLmForCausalLM": (SIZES | {"num_key_value_heads": HEADS}, O_PROJ),
}
"""For each class the settings of a tiny one, and where the outputs of the last layer's heads are put together."""


class OwnAnswers(Prompted):
    """The retrieval problem in words, with a model's answers for the right ones, so that there is something to destroy."""

    def by(self, model: Any) -> "OwnAnswers":
        """The task with the answers of this model."""
        self.model = model
        return self

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        return self._own(super().sample(n, generator))

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        return self._own(super().counterfactual(batch, hop, generator))

    def _own(self, batch: Batch) -> Batch:
        with torch.no_grad():
            said = logits_of(self.model, batch.tokens).argmax(dim=-1, keepdim=True)
        return replace(batch, targets=said.where(batch.targets >= 0, batch.targets))


def word_tokenizer(prompts: Prompts) -> PreTrainedTokenizerFast:
    """One token for each word and sign of these prompts, drawn from many of them."""
    splitter = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]|\n"), behavior="removed", invert=True)
    questions = prompts.sample(40, torch.Generator().manual_seed(0))
    texts = [f"{question.text} {question.lead} {question.answer}." for question in questions]
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    inner.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@cache
def task() -> OwnAnswers:
    """Assignments, one hop, with a token for each word and sign."""
    prompts = Prompts(formulation="assignments", hops=1)
    return OwnAnswers(prompts, word_tokenizer(prompts))


def made(name: str) -> Any:
    """A tiny model of an architecture, with weights large enough to make every path matter."""
    kind = getattr(transformers, name)
    limits = {"vocab_size": task().d_vocab, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model = kind(kind.config_class(**ARCHITECTURES[name][0], **limits)).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float)
            parameter.copy_(0.3 * drawn + (1.0 if parameter.ndim == 1 else 0.0))
    return model


def tried(name: str, explain: bool = True) -> dict[str, Any]:
    """One line of the table, without `explain` in a third of the time. Raises `ConfigError` for a model that is refused."""
    theirs, generator = made(name), torch.Generator().manual_seed(0)
    tokens = torch.randint(task().d_vocab, (3, 9), generator=generator)
    place = theirs.get_submodule(ARCHITECTURES[name][1])
    width = (place.weight.shape[0] if type(place).__name__ == "Conv1D" else place.in_features) // HEADS
    own, new = (
        slice(HEAD.index * width, (HEAD.index + 1) * width),
        torch.randn(3, 9, width, generator=generator, dtype=torch.float),
    )
    rows = torch.zeros(3, 9, dtype=torch.bool)
    rows[:, 4:] = True

    def put(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        value = inputs[0].clone()
        value[..., own] = torch.where(rows[..., None], new, value[..., own])
        return (value, *inputs[1:])

    with torch.no_grad():
        plain = theirs(tokens).logits
        handle = place.register_forward_pre_hook(put)
        replaced = theirs(tokens).logits
        handle.remove()
    answers = task().answers
    model = bridge(theirs, answers=answers)
    edited = run_edited(model, tokens, [HeadEdit(HEAD, rows, new)])
    with torch.no_grad():
        logits = model(tokens)
    found = analyze(model, task().by(model), examples=64, explain=explain, progress=False)
    return {
        "architecture": name,
        "logits": (logits - plain[..., answers]).abs().max().item(),
        "ablation": (edited - replaced[..., answers]).abs().max().item(),
        "moved": (replaced - plain).abs().max().item(),
        "rows": len(found.labels),
        "undecided": int((found.labels["status"] == "undecided").sum()),
        "circuit": found.circuit.missing or f"{found.circuit.number_of_edges()} edges",
    }


def main() -> None:
    """Try every architecture and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="also write the table")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = []
    for name in ARCHITECTURES:
        try:
            found.append(tried(name))
        except ConfigError as error:
            found.append({"architecture": name, "refused": str(error)})
        sys.stderr.write(f"{name}\n")
    table = pd.DataFrame(found)
    if arguments.write:
        write_file(RESULTS / "architectures.csv", lambda temporary: table.to_csv(temporary, index=False, float_format="%.1e"))
    sys.stdout.write(table.to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
