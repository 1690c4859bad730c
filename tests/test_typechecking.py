"""The checker of the tests: what passed once passes again, and nothing else does but what has passed very often."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from typechecking import ASKED, ENOUGH, look_again, typechecked

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


@typechecked
def least(numbers: frozenset[int], names: set[str]) -> int:
    return min(numbers)


def test_items_of_sets_are_checked_too():
    for _ in range(3):
        assert least(frozenset({1}), {"a"}) == 1
        for wrong in ((frozenset({"1"}), {"a"}), (frozenset({1}), {2}), ({1}, {"a"})):
            with pytest.raises(TypeCheckError):
                least(*wrong)


def test_functions_within_functions_remember_and_those_of_the_same_words_are_not_mistaken_for_each_other():
    def adding(kind):
        @typechecked
        def add(x: kind) -> kind:
            return x

        return add

    before = len(ASKED)
    for _ in range(3):
        adding(int)(1)
    assert len(ASKED) == before + 1
    assert adding(str)("a") == "a"
    with pytest.raises(TypeCheckError):
        adding(str)(1)
    classes = [dataclass(type("Pair", (), {"__annotations__": {"x": kind}})) for kind in (int, str)]
    numbers, names = map(typechecked, classes)
    assert (numbers(1).x, names("a").x) == (1, "a")
    for wrong in (lambda: numbers("a"), lambda: names(1)):
        with pytest.raises(TypeCheckError):
            wrong()


def test_who_has_passed_often_enough_is_not_looked_at_any_more():
    @typechecked
    def same(x: int) -> int:
        return x

    for _ in range(ENOUGH):
        same(1)
    with pytest.raises(TypeCheckError):
        same("a")
    for _ in range(ENOUGH + 1):
        same(1)
    assert same("a") == "a"
    look_again()
    with pytest.raises(TypeCheckError):
        same("a")


def test_calls_that_fail_have_not_passed():
    @typechecked
    def inverse(x: int) -> float:
        return 1 / x

    inverse(1)
    for _ in range(ENOUGH + 1):
        with pytest.raises(ZeroDivisionError):
            inverse(0)
    with pytest.raises(TypeCheckError):
        inverse(1.0)


def test_functions_are_known_by_the_arguments_that_they_take():
    @typechecked
    def applied(function: Callable[[int], int]) -> int:
        return function(1)

    assert applied(lambda x: x) == 1
    with pytest.raises(TypeCheckError):
        applied(lambda x, y: x)


def test_what_is_checked_twice_is_checked_once():
    def one(x: int) -> int:
        return x

    def two(x: str, y: int) -> str:
        return x * y

    twice, other = (typechecked(typechecked(function)) for function in (one, two))
    assert (twice(1), other("a", 2)) == (1, "aa")
    with pytest.raises(TypeCheckError):
        other("a", "b")


def test_the_package_is_checked_with_its_dataclasses_and_methods():
    look_again()
    moved, gap = torch.rand(4, 2), torch.rand(4, 3)
    for call in (lambda: shares(moved, gap), lambda: HeadId("0", 1), lambda: HeadId(0, index=1.0), lambda: HeadId.parse(0)):
        with pytest.raises(TypeCheckError):
            call()
    assert shares(moved, moved).shape == (2,)
    assert HeadId(0, index=1) == HeadId.parse("L0H1")


@typechecked
def total(numbers: tuple[int, ...], raw: memoryview) -> int:
    return sum(numbers) + len(raw)


def test_long_tuples_of_numbers_and_views_of_bytes_are_remembered_by_their_kinds():
    numbers, raw = tuple(range(20)), memoryview(b"ab")
    for _ in range(3):
        assert total(numbers, raw) == 192
        for wrong in ((("0", *numbers[1:]), raw), (numbers, b"ab"), (list(numbers), raw)):
            with pytest.raises(TypeCheckError):
                total(*wrong)
    total(tuple(range(20, 40)), memoryview(b"c"))
    assert sum(map(len, ASKED[id(total.__wrapped__.__code__)].passed.values())) == 1
