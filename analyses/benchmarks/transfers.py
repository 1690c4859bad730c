"""Where does an analysis on a device wait for the processor, and how often?

    python analyses/benchmarks/transfers.py [CHECKPOINT] [--examples 64] [--lines 40]     # half a minute

No accelerator is needed: `Device` is a second device in name. Its tensors (`Held`) hold numbers of the processor, and every
operation on them goes through `Held.__torch_dispatch__`, which refuses what a real device refuses (operands on two devices, a
generator of the other) and counts, by the line of stackheads that asked for it:

- *reads*: what the processor must wait for, because it asks for a number (`item`, `tolist`, `bool`, `.cpu()`, `equal`) or for a
  size that depends on numbers (`nonzero`, `unique`, a mask as an index);
- *uploads*: what is copied from the processor to the device.

Each is a copy over the bus, so none may be made for each cell (head at a destination), example or position. Printed are the
number of both, stage by stage, and the lines that make most; nothing is written.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import stackheads
from stackheads import Analysis, analyze, load
from stackheads.models import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
SOURCE = str(Path(stackheads.__file__).parent)
_setup_privateuseone_for_python_backend("held")  # torch then takes the name for a device that computes
DEVICE = torch.device("held:0")

ATEN = torch.ops.aten
SIZED = {ATEN.nonzero, ATEN.masked_select, ATEN._unique2, ATEN.unique_dim, ATEN.unique_consecutive, ATEN.bincount}
"""What gives as many numbers as it finds."""
READS = {ATEN._local_scalar_dense, ATEN.equal, *SIZED}
INDEXED = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}
COPIES = {ATEN.copy_, ATEN._to_copy}

seen: dict[str, Counter[str]] = {"reads": Counter(), "uploads": Counter()}
"""Of the run inside `counted`, by line."""


def _note(kind: str) -> None:
    """Count for the innermost line of stackheads."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(SOURCE):
        frame = frame.f_back
    where = "elsewhere" if frame is None else f"{frame.f_code.co_filename[len(SOURCE) + 1 :]}:{frame.f_lineno}"
    seen[kind][where] += 1


class Held(Tensor):
    """A tensor of the device: its numbers are in `held`, and only operations reach them."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "Held":
        own = held.detach()
        made = Tensor._make_wrapper_subclass(
            cls, own.shape, own.stride(), own.storage_offset(), dtype=own.dtype, device=DEVICE, requires_grad=False
        )
        made.held = own
        return made

    def __init__(self, held: Tensor) -> None: ...

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, op = dict(kwargs or {}), func.overloadpacket
        inputs = [*_leaves(args), *_leaves(tuple(kwargs.values()))]
        _refuse_mixed(op, args, inputs)
        _count(op, args, inputs)
        to = kwargs.pop("device", None)
        out = func(*_numbers(args), **{name: _numbers(each) for name, each in kwargs.items()})
        if op is ATEN._to_copy and to is not None and not _is_device(to):
            _note("reads")
            return out
        return args[0] if func._schema.is_mutable and func._schema.arguments[0].is_write else _held(out)


def _leaves(values: Any) -> Iterator[Any]:
    for each in values:
        if isinstance(each, (list, tuple)):
            yield from _leaves(each)
        elif isinstance(each, (Tensor, torch.Generator)):
            yield each


def _numbers(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_numbers, value))
    return value.held if type(value) is Held else value


def _held(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_held, value))
    return Held(value) if isinstance(value, Tensor) else value


def _on_processor(value: Any) -> bool:
    return isinstance(value, Tensor) and type(value) is not Held


def _count(op: Any, args: Any, inputs: list[Any]) -> None:
    """Count what an operation makes the processor wait for, or brings to the device."""
    if op in READS or (op is ATEN.repeat_interleave and len(inputs) == 1):
        _note("reads")
    elif op in INDEXED:
        masks = [index.dtype == torch.bool for index in args[1] if index is not None]
        if any(masks) and (op is ATEN.index or len(masks) > 1 or args[2].numel() > 1):  # where one mask is filled, no size
            _note("reads")
    if (op in INDEXED or op is ATEN.copy_) and any(_on_processor(each) and each.dim() for each in inputs):
        _note("reads" if op is ATEN.copy_ and _on_processor(args[0]) else "uploads")


def _refuse_mixed(op: Any, args: Any, inputs: list[Any]) -> None:
    """Raise what a real device raises: operands on two devices, but for single numbers, copies, and indices to the device."""
    if any(isinstance(each, torch.Generator) for each in inputs):
        raise RuntimeError(f"{op} on {DEVICE} was given a generator of the processor")
    if op in INDEXED and type(args[0]) is Held:
        inputs = list(_leaves(args[2:]))
    if op not in COPIES and any(_on_processor(each) and (each.dim() or op in INDEXED) for each in inputs):
        raise RuntimeError(f"{op} was given tensors on {DEVICE} and on the processor")


class Device(TorchFunctionMode):
    """Inside, `DEVICE` can be asked for: what is made there, or brought there, is `Held`."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and type(args[0]) is Held and kwargs.get("device") is None:
            _note("uploads")
            return Held(args[0].held.new_tensor(*args[1:], **kwargs))
        if func is Tensor.tolist and type(args[0]) is Held:
            return _to_list(args[0])
        if func in (Tensor.__getitem__, Tensor.__setitem__) and type(args[0]) is Held:
            args = (args[0], _index(args[1]), *args[2:])
        if func is Tensor.to and any(map(_is_device, (*args[1:], *kwargs.values()))):
            return _moved(args[0], next((each for each in (*args, *kwargs.values()) if isinstance(each, torch.dtype)), None))
        if not _is_device(kwargs.get("device")):
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{func} on {DEVICE} was given a generator of the processor")
        if func in (torch.tensor, torch.as_tensor):
            _note("uploads")
        return _held(func(*args, **(kwargs | {"device": "cpu"})))


def _index(index: Any) -> Any:
    """Lists of places are brought to the device."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    if not isinstance(index, (list, range)):
        return index
    _note("uploads")
    return Held(torch.tensor(list(index), dtype=None if len(index) else torch.long))


def _to_list(value: Held) -> Any:
    """What torch refuses of a subclass."""
    _note("reads")
    return value.held.tolist()


MAKING = torch.library.Library("aten", "IMPL")
"""What torch itself makes on the device is `Held`, too."""


def _empty(size: Any, *rest: Any, dtype: Any = None, **more: Any) -> Held:
    return Held(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *rest: Any, dtype: Any = None, **more: Any) -> Held:
    return Held(torch.empty_strided(size, stride, dtype=dtype))


MAKING.impl("empty.memory_format", _empty, "PrivateUse1")
MAKING.impl("empty_strided", _empty_strided, "PrivateUse1")


def _is_device(value: Any) -> bool:
    return isinstance(value, (str, torch.device)) and str(value).startswith(DEVICE.type)


def _moved(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`value.to(DEVICE, dtype)`: itself where it is there already."""
    if type(value) is Held:
        return value if dtype is None else value.to(dtype)
    _note("uploads")
    return Held(value.to(dtype or value.dtype, copy=True))


@contextmanager
def counted() -> Iterator[dict[str, Counter[str]]]:
    """Inside, the device can be asked for; what is counted is filled in while it runs."""
    for each in seen.values():
        each.clear()
    with Device():
        yield dict(seen.items())


def stages(subject: Checkpoint, examples: int, seed: int = 0) -> dict[str, dict[str, Counter[str]]]:
    """What each stage of an analysis reads and uploads, by line: labels, explanation, selectors, trial."""
    found = {}

    def stage(name: str, run: Callable[[], Any]) -> Any:
        with counted() as here:
            out = run()
            found[name] = {kind: Counter(each) for kind, each in here.items()}
        return out

    def analysed(explain: bool) -> Analysis:
        return analyze(subject, examples=examples, seed=seed, device=DEVICE, progress=False, explain=explain)

    stage("labels", lambda: analysed(False))
    analysis = stage("labels, explained", lambda: analysed(True))
    for way in ("answer", "attention"):
        stage(f"selectors by {way}", lambda way=way: analysis.selectors(examples=examples, fitted_to=way, progress=False))
    stage("trial", lambda: analysis.trial(examples=examples))
    return found


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=ROOT / "checkpoints" / "cycle-d4-l3")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--lines", type=int, default=10, help="so many lines of each stage, those with most first")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = stages(load(arguments.checkpoint), arguments.examples)
    print("| stage | reads | uploads |\n| --- | --- | --- |")
    for name, counts in found.items():
        print(f"| {name} | {counts['reads'].total()} | {counts['uploads'].total()} |")
    for name, counts in found.items():
        for kind, lines in counts.items():
            for where, number in lines.most_common(arguments.lines):
                print(f"{name}, {kind}: {number} {where}")


if __name__ == "__main__":
    main()
