"""A tiny random Llama with a tokenizer of its own, as a transformers folder and as a GGUF file; nothing is downloaded."""

from functools import cache

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stackheads.models.outside.language import LanguageModel
from stackheads.tasks.prompts import FORMULATIONS, Prompts

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
HEADS, WIDTH, LAYERS = 4, 32, 2


@cache
def trained(vocabulary):
    """Byte-level BPE; with few merges, words are several tokens."""
    texts = [
        f"{question.text}\n{question.lead} {' '.join(question.choices)}"
        for formulation in FORMULATIONS
        for question in Prompts(formulation=formulation, hops=2).sample(20, torch.Generator().manual_seed(0))
    ]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), Decoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer(vocabulary=700, template=True):
    made = PreTrainedTokenizerFast(tokenizer_object=trained(vocabulary), bos_token="<s>", eos_token="</s>")
    if template:
        made.chat_template = TEMPLATE
    return made


def model(vocabulary=700, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made


def language(vocabulary=700, template=True, seed=0):
    words = tokenizer(vocabulary, template)
    return LanguageModel(model(len(words), seed), words, "tiny", 0, str(seed), "float32")


def save_folder(path, made):
    made.model.save_pretrained(path)
    made.tokenizer.save_pretrained(path)
    return path


def _turned(weight, heads):
    """Rows in the order in which llama.cpp keeps them: the halves of each head interleaved."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def save_gguf(path, made):
    """The same model as GGUF, in float32, with llama.cpp's names."""
    import json

    from gguf import GGUFWriter

    config, weights = made.model.config, {name: tensor.numpy() for name, tensor in made.model.state_dict().items()}
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_embedding_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    words = json.loads(made.tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(words["vocab"], key=words["vocab"].get))
    writer.add_token_types([3 if index < 2 else 1 for index in range(len(words["vocab"]))])
    writer.add_token_merges([" ".join(pair) for pair in words["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    for layer in range(LAYERS):
        theirs, ours = f"model.layers.{layer}", f"blk.{layer}"
        attention = f"{theirs}.self_attn"
        writer.add_tensor(f"{ours}.attn_q.weight", _turned(weights[f"{attention}.q_proj.weight"], HEADS))
        writer.add_tensor(f"{ours}.attn_k.weight", _turned(weights[f"{attention}.k_proj.weight"], config.num_key_value_heads))
        writer.add_tensor(f"{ours}.attn_v.weight", weights[f"{attention}.v_proj.weight"])
        writer.add_tensor(f"{ours}.attn_output.weight", weights[f"{attention}.o_proj.weight"])
        writer.add_tensor(f"{ours}.attn_norm.weight", weights[f"{theirs}.input_layernorm.weight"])
        writer.add_tensor(f"{ours}.ffn_norm.weight", weights[f"{theirs}.post_attention_layernorm.weight"])
        for part in ("gate", "up", "down"):
            writer.add_tensor(f"{ours}.ffn_{part}.weight", weights[f"{theirs}.mlp.{part}_proj.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
