"""The checker of the tests: what passed once passes again, and nothing else does."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from typechecking import typechecked

from stackheads.labelling.statistics import shares
from stackheads.types import HeadId


@typechecked
def product(
    x: Float[Tensor, "row inner"], y: Float[Tensor, "inner column"], cut: int | None = None
) -> Float[Tensor, "row column"]:
    return (x @ y)[:cut]


@typechecked
def named(places: dict[str, tuple[int, str]], numbers: list[int]) -> list[str]:
    return [name for _, name in places.values()] if numbers else [1]  # pyright: ignore[reportReturnType]


def test_each_kind_of_call_is_checked_also_after_others_passed():
    x, y = torch.rand(2, 3), torch.rand(3, 4)
    for _ in range(3):
        product(x, y)
        with pytest.raises(TypeCheckError):
            product(x.long(), y)
        with pytest.raises(TypeCheckError):
            product(x, y, "1")
        with pytest.raises(TypeCheckError):  # arguments that passed, and a result that does not
            product(x, y, 1)


def test_items_are_checked_too():
    for _ in range(3):
        named({"a": (1, "x")}, [1])
        for wrong in (({"a": (1, 2)}, [1]), ({1: (1, "x")}, [1]), ({"a": (1, "x")}, ["1"]), ({"a": (1, "x")}, [])):
            with pytest.raises(TypeCheckError):
                named(*wrong)


@typechecked
def first(x: Float[Tensor, "row"], n: int, more: int = 0) -> Float[Tensor, "{n}"]:
    return x[: n + more]


def test_sizes_may_be_arguments():
    for _ in range(3):
        first(torch.rand(5), 3)
        first(torch.rand(5), n=2)
        for wrong in ((torch.rand(5), 3, 1), (torch.rand(2), 3)):
            with pytest.raises(TypeCheckError):
                first(*wrong)
    first(torch.rand(3), 3)
    with pytest.raises(TypeCheckError):
        first(torch.rand(3), 4)  # of the same kinds as those above


def test_the_package_is_checked_with_its_dataclasses_and_methods():
    moved, gap = torch.rand(4, 2), torch.rand(4, 3)
    for call in (lambda: shares(moved, gap), lambda: HeadId("0", 1), lambda: HeadId(0, index=1.0), lambda: HeadId.parse(0)):
        with pytest.raises(TypeCheckError):
            call()
    assert shares(moved, moved).shape == (2,)
    assert HeadId(0, index=1) == HeadId.parse("L0H1")
