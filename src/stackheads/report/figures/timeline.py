"""The emergence timeline: accuracy per hop above, what each head does at each snapshot below."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stackheads.report.figures.style import COLOURS, DOTTED, hop_colours, plain
from stackheads.tables import records
from stackheads.timeline.result import Emergence
from stackheads.types import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def timeline(found: Emergence) -> "Figure":
    """Accuracy per hop above, one row per followed cell below, on one axis of steps.

    A bar's height is the attention on the cell's role at that snapshot, its colour the cell's status there, and a triangle the
    emergence step. Dotted lines go down where hops emerge.
    """
    from matplotlib.figure import Figure

    cells = [row for row in records(found.steps) if row["kind"] == "head"]
    rows_height = 0.33 * max(len(cells), 2)
    figure = Figure(figsize=(9, 3.4 + rows_height + 1.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.0, rows_height + 0.4])
    _draw_accuracy(top, found)
    _draw_cells(bottom, found, cells)
    for step in {row["step"] for row in records(found.steps) if row["kind"] == "hop"} - {None}:
        for axes in (top, bottom):
            axes.axvline(step, color="#555555", linewidth=0.8, linestyle=DOTTED, zorder=3)
    bottom.set_xlabel("training step")
    bottom.set_xlim(0, _edges(found.snapshots)[-1])
    top.set_title(f"{found.model['name']}: {found.task['name']}", loc="left", fontsize=11)
    return figure


def _draw_accuracy(axes: Any, found: Emergence) -> None:
    hops = [int(hop) for hop in found.accuracy.columns]
    colours, styles = hop_colours(hops), ("-", "--", "-.", ":")
    steps = {row["hop"]: row["step"] for row in records(found.steps) if row["kind"] == "hop"}
    for number, hop in enumerate(hops):
        shares = dict(zip(found.snapshots, found.accuracy[hop].tolist(), strict=True))
        label = f"hop {hop}" + (f", from {steps[hop]:,}" if steps[hop] is not None else ", never")
        axes.plot(list(shares), list(shares.values()), styles[number % 4], color=colours[hop], linewidth=1.8, label=label)
        if steps[hop] is not None:
            _mark(axes, steps[hop], shares[steps[hop]], colours[hop])
    bar = found.thresholds.emerged_accuracy
    axes.axhline(bar, color="#999999", linewidth=0.8, linestyle=DOTTED)
    axes.set(ylim=(0, 1.06), ylabel="accuracy at the query")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9, title=f"▼ {bar:.0%} from here on")
    plain(axes)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")


def _draw_cells(axes: Any, found: Emergence, cells: list[dict[str, Any]]) -> None:
    from matplotlib.patches import Patch

    edges = dict(zip(found.snapshots, pairwise(_edges(found.snapshots)), strict=True))
    names = [cell["what"] for cell in cells]
    seen = set()
    for number, row in enumerate(records(found.heads)):
        place, status = number % len(names), row["status"]
        seen.add(status)
        height = 0.82 * max(row["pattern"] or 0.0, 0.03)
        left, right = edges[row["step"]]
        gap = 0.06 * (right - left)
        axes.bar(left + gap, height, right - left - 2 * gap, place + 0.45 - height, align="edge", color=COLOURS[status])
    for place, cell in enumerate(cells):
        if cell["step"] is not None:
            axes.plot(
                cell["step"],
                place - 0.36,
                "v",
                color=COLOURS[Status.CONFIRMED],
                markeredgecolor="black",
                markersize=8,
                zorder=4,
            )
        axes.axhline(place + 0.46, color="#DDDDDD", linewidth=0.6)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.75)
    handles = [Patch(color=colour, label=status) for status, colour in COLOURS.items() if status in seen]
    title = "▼ confirmed from here on\nheight: attention on\nthe role's source" if names else "no head is ever confirmed"
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9, title=title)
    plain(axes)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")


def _mark(axes: Any, step: int, height: float, colour: Any) -> None:
    """The triangle at an emergence step."""
    axes.plot(step, height, "v", color=colour, markeredgecolor="black", markersize=8, zorder=4)


def _edges(steps: list[int]) -> list[float]:
    """Where the bars of neighbouring snapshots meet: halfway; the outer ones are symmetric."""
    middles = [(one + other) / 2 for one, other in pairwise(steps)]
    return [2 * steps[0] - middles[0], *middles, 2 * steps[-1] - middles[-1]]
