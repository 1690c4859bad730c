"""The checker of the tests: what passed once passes again, and nothing else does."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor
from typechecking import typechecked


@jaxtyped(typechecker=typechecked)
def product(
    x: Float[Tensor, "row inner"], y: Float[Tensor, "inner column"], cut: int | None = None
) -> Float[Tensor, "row column"]:
    return (x @ y)[:cut]


@jaxtyped(typechecker=typechecked)
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
