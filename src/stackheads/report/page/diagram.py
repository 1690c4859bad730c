"""The circuit as numbers for an inline SVG: boxes, ports and curves, in pixels, on the layout that the figures use.

Layers go bottom up and end in the logits. Width is strength; a dashed curve is a path without which the answer is stronger.
"""

from itertools import pairwise
from typing import Any

from stackheads.explanation.circuit import LOGITS, Circuit
from stackheads.report.figures.layout import Item, Layout, gate_in_box, layered, strong
from stackheads.tables import role_of

LEAST = 0.1
"""Paths below this are in the table, but not drawn."""
UNIT, ROW, BOX, TALL, MARGIN = 120, 126, 112, 58, 16
PORTS = {"q": -30, "k": 0, "v": 30, LOGITS: 0}
SIDE = 70
"""Room for the layers' names."""


def diagram(circuit: Circuit | None) -> dict[str, Any] | None:
    """Size, `boxes`, `edges`, `layers` and the `logits` bar; None where there is nothing to draw."""
    if circuit is None or circuit.number_of_nodes() < 2:
        return None
    layout = layered(circuit, LEAST)
    left = min(layout.x.values()) - 0.5
    width = SIDE + (max(layout.x.values()) + 0.5 - left) * UNIT + MARGIN
    height = ROW * len(layout.rows) + TALL + 2 * MARGIN
    place = _Place(layout, left, height)
    edges = [
        {
            "from": sender,
            "to": receiver,
            "kind": key,
            "width": round(1 + 5 * min(abs(values["strength"]), 1), 2),
            "negative": values["strength"] < 0,
            "title": f"{sender} → {receiver}, {key}: {values['strength']:.2f} at {values['readout']}",
            "path": place.path(layout.routes[sender, receiver, key], key),
        }
        for (sender, receiver, key), values in strong(circuit, LEAST).items()
    ]
    fed = {(receiver, key) for _, receiver, key in layout.routes}
    return {
        "width": round(width),
        "height": height,
        "least": LEAST,
        "edges": sorted(edges, key=lambda edge: -float(edge["width"])),
        "boxes": [place.box(name, values, fed) for name, values in circuit.nodes(data=True) if name != LOGITS],
        "layers": [{"name": f"layer {layer}", "y": place.y(row)} for row, layer in enumerate(layout.rows)],
        "logits": {"x": SIDE, "y": place.y(len(layout.rows)) + TALL / 2, "width": round(width) - SIDE - MARGIN},
    }


class _Place:
    """From the layout's units to pixels; y grows downward."""

    def __init__(self, layout: Layout, left: float, height: float):
        self.layout, self.left, self.height = layout, left, height

    def x(self, item: Item) -> float:
        return round(SIDE + (self.layout.x[item] - self.left) * UNIT, 1)

    def y(self, row: int) -> float:
        return self.height - MARGIN - TALL / 2 - row * ROW

    def box(self, name: str, values: dict[str, Any], fed: set[tuple[str, str]]) -> dict[str, Any]:
        x, y = self.x(name), self.y(self.layout.at[name])
        ports = [{"kind": key, "x": x + PORTS[key], "y": y + TALL / 2} for key in ("q", "k", "v") if (name, key) in fed]
        role = str(role_of(values))
        corner = {"left": x - BOX / 2, "top": y - TALL / 2, "wide": BOX, "tall": TALL}
        said = {"name": name, "head": values["head"], "destination": values["destination"], "gate": gate_in_box(values)}
        return {**said, "role": role, "x": x, "y": y, "ports": ports, **corner}

    def path(self, route: tuple[Item, ...], key: str) -> str:
        """From the top of a box, past the rows between, to an input of a box or to the logits."""
        row = self.layout.at[str(route[0])]
        points = [(self.x(route[0]), self.y(row) - TALL / 2)]
        for number, item in enumerate(route[1:], start=row + 1):
            x, y = self.x(item), self.y(number)
            box = isinstance(item, str)
            points += [(x + PORTS[key], y + TALL / 2)] if box else [(x, y + TALL / 2), (x, y - TALL / 2)]
        if key == LOGITS:
            points.append((points[-1][0], self.y(len(self.layout.rows)) + TALL / 2))
        text = f"M{points[0][0]:g} {points[0][1]:g}"
        for (x0, y0), (x1, y1) in pairwise(points):
            bend = (y1 - y0) / 2
            text += f"C{x0:g} {y0 + bend:g} {x1:g} {y1 - bend:g} {x1:g} {y1:g}"
        return text
