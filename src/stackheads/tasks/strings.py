"""Strings of symbols as tables of all of them: which template each has, which are memorised, which are held out.

A string's number is that to the base of the symbols, its first place counting least. What is drawn is drawn once for each seed.
"""

from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from stackheads.seeds import Stream, stream
from stackheads.types import IGNORE, NOWHERE

UNSEEN = 8
"""Of so many strings of a template one is held out."""


@cache
def templates(length: int) -> tuple[tuple[int, ...], ...]:
    """All templates of a length in alphabetical order, each place's letter as a number: aaa, aab, aba, abb, abc."""
    found: list[tuple[int, ...]] = [()]
    for _ in range(length):
        found = [(*each, letter) for each in found for letter in range(max(each, default=-1) + 2)]
    return tuple(found)


def template_of(strings: Int[Tensor, "*rest place"]) -> Int[Tensor, "*rest"]:
    """The number of each string's template among `templates`."""
    return _numbers(strings.shape[-1]).to(strings.device)[_firsts(strings)]


def _firsts(strings: Int[Tensor, "*rest place"]) -> Int[Tensor, "*rest"]:
    """A number for the places at which each symbol of a string stands first, which are those of its template."""
    length = strings.shape[-1]
    first = (strings[..., :, None] == strings[..., None, :]).to(torch.uint8).argmax(dim=-1)
    return (first * length ** torch.arange(length, device=strings.device)).sum(dim=-1)


@cache
def _numbers(length: int) -> Int[Tensor, "firsts"]:
    numbers = torch.full((length**length,), NOWHERE)
    numbers[_firsts(torch.tensor(templates(length)))] = torch.arange(len(templates(length)))
    return numbers


@cache
def memorised(symbols: int, length: int, strings: int, labels: int, seed: int) -> Int[Tensor, "string"]:
    """The label of each string, by its number to the base of `symbols`; IGNORE for those that are not memorised.

    The same arguments give the same table. Raises `ConfigError` for a seed that is none.
    """
    generator = stream(seed, Stream.CASES, "memorised")
    table = torch.full((symbols**length,), IGNORE)

    def below(end: int, start: int = 0) -> int:
        return int(torch.randint(start, end, (), generator=generator))

    done = 0
    while done < strings:
        string, power = below(symbols**length), symbols ** below(length)
        symbol = string // power % symbols
        partner = string + ((symbol + below(symbols, 1)) % symbols - symbol) * power
        if table[string] == table[partner] == IGNORE:
            table[string] = label = below(labels)
            table[partner] = (label + below(labels, 1)) % labels
            done += 2
    return table


@cache
def held_out(symbols: int, length: int, seed: int) -> Int[Tensor, "string"]:
    """1 for each string that is held out, by its number to the base of `symbols`: one in `UNSEEN` of each template, rounded up.

    The same arguments give the same table. Raises `ConfigError` for a seed that is none.
    """
    generator = stream(seed, Stream.CASES, "held out")
    number = torch.arange(symbols**length)
    template = template_of(number[:, None] // symbols ** torch.arange(length) % symbols)
    table = torch.zeros_like(number)
    for each in range(len(templates(length))):
        mine = number[template == each]
        table[mine[torch.randperm(len(mine), generator=generator)[: -(-len(mine) // UNSEEN)]]] = 1
    return table
