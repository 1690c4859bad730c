"""The circuit as a diagram: layers bottom up, a box for each confirmed (head, destination), edges into its inputs q, k, v.

An edge's width is its strength: the share of the answer that goes when only this path is patched (`explanation/circuit.py`).
"""

from itertools import pairwise
from textwrap import fill
from typing import TYPE_CHECKING, Any

from stackheads.explanation.circuit import LOGITS, Circuit
from stackheads.record import Record
from stackheads.report.figures.layout import Item, Layout, gate_in_box, layered, strong
from stackheads.tables import role_of
from stackheads.types import Destination

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INPUT_COLOURS = {"q": "#0072B2", "k": "#D55E00", "v": "#009E73", LOGITS: "#777777"}
FILLS = {
    Destination.QUERY: "#FFE7B3",
    Destination.VALUE: "#DCEBF7",
    Destination.KEY: "#E6E6E6",
    Destination.CONDITION: "#D9F0E3",
    Destination.ASKED: "#F3DDEB",
}
PORTS = {"q": -0.3, "k": 0.0, "v": 0.3}
LEAST = 0.1
"""Edges below this are in the data, but not drawn."""
LETTERS = 12
"""Letters of a title that fit into an inch."""
HALF_WIDTH, HALF_HEIGHT, ROW = 0.5, 0.29, 1.4


def circuit_diagram(analysis: Record, least: float = LEAST) -> "Figure":
    """Draw the circuit of an analysis, edges of at least this strength. Without one, the figure says so in a line."""
    from matplotlib.figure import Figure

    circuit = analysis.circuit
    title = f"{analysis.model.get('name')}: {analysis.task['name']}"
    if circuit.missing is not None:
        figure = Figure(figsize=(6, 1.2))
        figure.text(0.03, 0.5, fill(f"{title}\n{circuit}", 80, replace_whitespace=False), va="center", fontsize=10)
        return figure
    layout = layered(circuit, least)
    low, high = min(layout.x.values()) - 0.75, max(layout.x.values()) + 0.75
    height = ROW * len(layout.rows) + 0.45
    figure = Figure(figsize=(max(5.5, 1.15 * (high - low) + 0.8), 0.95 * height + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(low - 0.55, high), ylim=(-0.62, ROW * len(layout.rows) + HALF_HEIGHT))
    axes.axis("off")
    for (sender, receiver, key), values in strong(circuit, least).items():
        points = _points(layout, layout.routes[sender, receiver, key], key)
        _draw_edge(axes, points, key, values["strength"])
    _draw_boxes(axes, circuit, layout, low)
    _draw_logits(axes, layout, low, high)
    axes.set_title(fill(title, int(LETTERS * figure.get_figwidth())), loc="left", fontsize=10)
    places = {values["destination"] for name, values in circuit.nodes(data=True) if name != LOGITS}
    _legend(figure, least, [place for place in Destination if place in places])
    return figure


def _points(layout: Layout, route: tuple[Item, ...], key: str) -> list[tuple[float, float]]:
    """Where the edge passes: from the top of a box, vertically past the rows between, to an input of a box or the logits."""
    row = layout.at[str(route[0])]
    points = [(layout.x[route[0]], row * ROW + HALF_HEIGHT)]
    for number, item in enumerate(route[1:], start=row + 1):
        x, y = layout.x[item], number * ROW
        points += [(x + PORTS[key], y - HALF_HEIGHT)] if isinstance(item, str) else [(x, y - HALF_HEIGHT), (x, y + HALF_HEIGHT)]
    if key == LOGITS:
        points.append((points[-1][0], len(layout.rows) * ROW - HALF_HEIGHT))
    return points


def _draw_edge(axes: Any, points: list[tuple[float, float]], key: str, strength: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = 0.5 * (y1 - y0)
        vertices += [(x0, y0 + bend), (x1, y1 - bend), (x1, y1)]
        codes += [Path.CURVE4] * 3
    axes.add_patch(
        PathPatch(
            Path(vertices, codes),
            fill=False,
            edgecolor=INPUT_COLOURS[key],
            linewidth=_line_width(strength),
            linestyle="-" if strength >= 0 else (0, (3, 2)),
            alpha=0.75,
            capstyle="round",
            zorder=1,
        )
    )


def _line_width(strength: float) -> float:
    return 0.5 + 3.0 * min(abs(strength), 1.0)


def _draw_boxes(axes: Any, circuit: Circuit, layout: Layout, low: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    fed = {(receiver, key) for _, receiver, key in layout.routes}
    for name, values in circuit.nodes(data=True):
        if name == LOGITS:
            continue
        x, y = layout.x[name], layout.at[name] * ROW
        colour = FILLS[Destination(values["destination"])]
        corner = (x - HALF_WIDTH, y - HALF_HEIGHT)
        style = "round,pad=0,rounding_size=0.06"
        axes.add_patch(
            FancyBboxPatch(corner, 2 * HALF_WIDTH, 2 * HALF_HEIGHT, style, facecolor=colour, edgecolor="#333333", zorder=2)
        )
        gate, middle = gate_in_box(values), {"ha": "center", "va": "center", "zorder": 3}
        axes.text(x, y + (0.17 if gate else 0.1), str(role_of(values)), fontsize=10, weight="bold", **middle)
        axes.text(x, y + (0.03 if gate else -0.08), f"{values['head']} @{values['destination']}", fontsize=8, **middle)
        axes.text(x, y - 0.1, gate, fontsize=7, **middle)
        for key, offset in PORTS.items():
            if (name, key) in fed:
                port = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": INPUT_COLOURS[key]}
                axes.text(x + offset, y - HALF_HEIGHT, key, ha="center", va="center", fontsize=7, bbox=port, zorder=4)
    for row, layer in enumerate(layout.rows):
        axes.text(low - 0.5, row * ROW, f"layer {layer}", va="center", fontsize=9, color="#555555")


def _draw_logits(axes: Any, layout: Layout, low: float, high: float) -> None:
    from matplotlib.patches import Rectangle

    y = len(layout.rows) * ROW
    size = (high - low - 0.2, 2 * HALF_HEIGHT - 0.14)
    axes.add_patch(Rectangle((low + 0.1, y - HALF_HEIGHT), *size, facecolor="#F4F4F4", edgecolor="#333333", zorder=2))
    axes.text((low + high) / 2, y - 0.07, LOGITS, ha="center", va="center", fontsize=10, weight="bold", zorder=3)


def _legend(figure: "Figure", least: float, places: list[Destination]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    what = {"q": "into queries", "k": "into keys", "v": "into values", LOGITS: "straight to the logits"}
    handles: list[Any] = [Line2D([], [], color=INPUT_COLOURS[key], linewidth=2.5, label=text) for key, text in what.items()]
    handles += [Patch(facecolor=FILLS[place], edgecolor="#333333", label=f"@{place}") for place in places]
    title = f"width: what goes when only this path is patched (drawn from {least:.0%})"
    figure.legend(
        handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=8, title=title, title_fontsize=8
    ).set_alignment("left")
