"""The evidence map: one row per (head, destination), where it looks on the left, the three channels of evidence on the right.

Left: the role whose source takes most attention, as a marker whose colour and shape say the status; hollow where the pattern
channel did not pass. Right: attention on that role with its best rival, the effect of ablation with its interval, and what the
attended source alone moves. A dotted line is the bar that must be passed.
"""

from typing import TYPE_CHECKING, Any

from stackheads.labelling.thresholds import Thresholds
from stackheads.record import Record
from stackheads.report.figures.style import COLOURS, DOTTED, MARKERS, plain
from stackheads.tables import natural, place_of, records
from stackheads.types import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW_HEIGHT = 0.24


def evidence_map(analysis: Record) -> "Figure":
    """Roles, attention, effect and write of every (head, destination) of an analysis."""
    from matplotlib.figure import Figure

    rows = records(analysis.labels)
    roles = _roles(rows)
    width = 0.34 * max(len(roles), 4)
    figure = Figure(figsize=(3.6 + width + 4.6, 1.9 + ROW_HEIGHT * len(rows)), layout="constrained")
    widths = [width, 1.5, 1.5, 1.5]
    where, pattern, effect, write = figure.subplots(1, 4, sharey=True, width_ratios=widths)
    _draw_roles(where, rows, roles)
    _draw_pattern(pattern, rows)
    _draw_effect(effect, rows, analysis.thresholds)
    _draw_write(write, rows, analysis.thresholds.min_write)
    for axes in (where, pattern, effect, write):
        _stripes(axes, rows)
        plain(axes)
    where.set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(f"{analysis.model.get('name')}: {analysis.task['name']}", x=0.01, ha="left", fontsize=11)
    _legend(figure, rows)
    return figure


def _roles(rows: list[dict[str, Any]]) -> list[str]:
    """The columns: every role that any head leans to, in the order of their names and numbers."""
    return sorted({row["looks_like"] for row in rows if row["looks_like"] is not None}, key=natural)


def _draw_roles(axes: Any, rows: list[dict[str, Any]], roles: list[str]) -> None:
    for number, row in enumerate(rows):
        if row["looks_like"] is None:
            continue
        colour, passed = COLOURS[row["status"]], row["role"] is not None
        axes.plot(
            roles.index(row["looks_like"]),
            number,
            marker=MARKERS[row["status"]],
            color=colour,
            markerfacecolor=colour if passed else "white",
            markersize=3 + 8 * (row["pattern"] or 0.0),
            zorder=3,
        )
    axes.set_xticks(range(len(roles)), roles, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_xlim(-0.6, max(len(roles), 1) - 0.4)
    axes.set_yticks(range(len(rows)), [f"{row['head']} @{place_of(row)}" for row in rows], fontsize=8)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        if row["status"] == Status.CONFIRMED:
            label.set_weight("bold")
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.6)
    axes.set_title("looks like", loc="left", fontsize=9)


def _draw_pattern(axes: Any, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        _point(axes, row["pattern"], number, row["status"])
        if row["rival"] is not None:
            axes.plot(row["rival"], number, "|", color="#444444", markersize=8, zorder=2)
    axes.set_xlim(-0.04, 1.06)
    axes.set_title("attention (| rival)", loc="left", fontsize=9)


def _draw_effect(axes: Any, rows: list[dict[str, Any]], thresholds: Thresholds) -> None:
    for number, row in enumerate(rows):
        if row["effect_low"] is not None:
            axes.plot([row["effect_low"], row["effect_high"]], [number, number], color=COLOURS[row["status"]], linewidth=1.5)
        _point(axes, row["effect"], number, row["status"])
    axes.axvline(thresholds.min_effect, color="#555555", linewidth=0.9, linestyle=DOTTED)
    axes.set_title(f"effect, {100 * thresholds.confidence:g} % interval", loc="left", fontsize=9)


def _draw_write(axes: Any, rows: list[dict[str, Any]], bar: float) -> None:
    for number, row in enumerate(rows):
        _point(axes, row["write"], number, row["status"])
    axes.axvline(bar, color="#555555", linewidth=0.9, linestyle=DOTTED)
    if all(row["write"] is None for row in rows):
        axes.set_xlim(0, 1)
    axes.set_title("write", loc="left", fontsize=9)


def _point(axes: Any, value: float | None, number: int, status: str) -> None:
    if value is not None:
        axes.plot(value, number, marker=MARKERS[status], color=COLOURS[status], markersize=6, zorder=3)


def _stripes(axes: Any, rows: list[dict[str, Any]]) -> None:
    """A grey band behind every second head, and a line where a layer ends."""
    heads = list(dict.fromkeys(row["head"] for row in rows))
    for number, row in enumerate(rows):
        if heads.index(row["head"]) % 2:
            axes.axhspan(number - 0.5, number + 0.5, color="#F3F3F3", zorder=0)
        if number and row["layer"] != rows[number - 1]["layer"]:
            axes.axhline(number - 0.5, color="#888888", linewidth=0.8, zorder=1)
    axes.tick_params(labelsize=8)


def _legend(figure: "Figure", rows: list[dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    seen = [status for status in MARKERS if any(row["status"] == status for row in rows)]
    handles = [
        Line2D([], [], marker=MARKERS[status], color=COLOURS[status], linestyle="", markersize=7, label=status)
        for status in seen
    ]
    handles.append(Line2D([], [], marker="o", color="#777777", markerfacecolor="white", linestyle="", label="no clear pattern"))
    handles.append(Line2D([], [], color="#555555", linewidth=0.9, linestyle=DOTTED, label="bar to pass"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=8)
