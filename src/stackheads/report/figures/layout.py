"""Where the nodes of a circuit stand: a layered layout (Sugiyama, Tagawa & Toda 1981), small and deterministic.

Rows are the model's layers. An edge that skips layers gets a waypoint in every row between, shared by all edges of one sender
and one input, so that lines pass beside boxes and not through them. Rows are ordered by sweeps of barycentres up and down; then
each item moves towards the mean of its neighbours as far as its row's order and widths allow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import shorten
from typing import Any

from stackheads.explanation.circuit import LOGITS, Circuit
from stackheads.tables import natural
from stackheads.types import Gate, ranges

SWEEPS = 8
PULLS = 24
WIDTH = {True: 1.25, False: 0.3}
"""Room that a box and a waypoint take in a row."""

LETTERS = 17
"""Letters of a gate that fit into a box."""

Item = str | tuple[str, str, int]
"""A cell, or a waypoint: sender, input, row."""


@dataclass(frozen=True)
class Layout:
    """`rows` are the layers that hold cells, bottom up; `at` is each cell's row; `x` places every item; `routes` are the
    items along each edge.
    """

    rows: tuple[int, ...]
    at: dict[str, int]
    x: dict[Item, float]
    routes: dict[tuple[str, str, str], tuple[Item, ...]]


def layered(circuit: Circuit, least: float) -> Layout:
    """Lay out the cells of a circuit and its edges of at least this strength. Edges to `logits` end above the last row."""
    layer_of = {name: values["layer"] for name, values in circuit.nodes(data=True) if name != LOGITS}
    rows = tuple(sorted(set(layer_of.values())))
    at = {name: rows.index(layer) for name, layer in layer_of.items()}
    items: list[list[Item]] = [sorted((name for name in at if at[name] == row), key=natural) for row in range(len(rows))]
    routes = {}
    for sender, receiver, key in sorted(strong(circuit, least), key=_edge_order):
        top = len(rows) if receiver == LOGITS else at[receiver]
        via: list[Item] = [(sender, key, row) for row in range(at[sender] + 1, top)]
        for row, point in enumerate(via, start=at[sender] + 1):
            if point not in items[row]:
                items[row].append(point)
        routes[sender, receiver, key] = (sender, *via, *([] if receiver == LOGITS else [receiver]))
    neighbours = _neighbours(routes)
    return Layout(rows, at, _places(_ordered(items, neighbours), neighbours), routes)


def gate_in_box(values: Mapping[str, Any]) -> str:
    """A node's gate as its box has room for it, "asked 1..3"; nothing for a head that has its role always.

    Of a longer one the beginning of its name goes, since two heads may differ in values alone: "… kind 1, 3..4".
    """
    if not values.get("gate"):
        return ""
    gate = Gate.parse(values["gate"])
    words, said = gate.name.split(), ranges(gate.values)
    forms = [" ".join([*(["…"] if left else []), *words[left:], said]) for left in range(len(words))]
    return next((form for form in forms if len(form) <= LETTERS), shorten(forms[-1], LETTERS, placeholder=" …"))


def _edge_order(edge: tuple[str, str, str]) -> list[Any]:
    return [natural(part) for part in edge]


def strong(circuit: Circuit, least: float) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The edges of at least this strength, either sign."""
    edges = circuit.edges(keys=True, data=True)
    return {(start, end, key): values for start, end, key, values in edges if abs(values["strength"]) >= least}


def _neighbours(routes: dict[tuple[str, str, str], tuple[Item, ...]]) -> dict[Item, list[Item]]:
    found: dict[Item, list[Item]] = {}
    for route in routes.values():
        for one, other in pairwise(route):
            found.setdefault(one, []).append(other)
            found.setdefault(other, []).append(one)
    return found


def _ordered(items: list[list[Item]], neighbours: dict[Item, list[Item]]) -> list[list[Item]]:
    rows = [list(row) for row in items]
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            place = {item: (number + 0.5) / len(other) for other in rows for number, item in enumerate(other)}
            row.sort(key=lambda item: _mean([place[near] for near in neighbours.get(item, [])], place[item]))
    return rows


def _places(rows: list[list[Item]], neighbours: dict[Item, list[Item]]) -> dict[Item, float]:
    x = {item: place for row in rows for item, place in zip(row, _apart([0.0] * len(row), row), strict=True)}
    for _ in range(PULLS):
        for row in rows:
            wanted = [_mean([x[near] for near in neighbours.get(item, [])], x[item]) for item in row]
            x |= dict(zip(row, _apart(wanted, row), strict=True))
    return x


def _apart(wanted: Sequence[float], row: Sequence[Item]) -> list[float]:
    """The wanted places, moved so that nothing overlaps: the mean of pushing right and pushing left."""
    half = [WIDTH[isinstance(item, str)] / 2 for item in row]
    right, left = list(wanted), list(wanted)
    for number in range(1, len(row)):
        right[number] = max(right[number], right[number - 1] + half[number - 1] + half[number])
    for number in reversed(range(len(row) - 1)):
        left[number] = min(left[number], left[number + 1] - half[number + 1] - half[number])
    return [(one + other) / 2 for one, other in zip(right, left, strict=True)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
