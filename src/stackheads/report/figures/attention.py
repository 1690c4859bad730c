"""Attention of heads on one example, for papers: what `report/attention.py` draws in a notebook, as a figure."""

from typing import TYPE_CHECKING, Any

from stackheads.interventions import destination_rows
from stackheads.labelling.roles import role_targets
from stackheads.record import Record
from stackheads.report.attention import head_name, looked, marked_tokens
from stackheads.tables import place_of, role_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS, MOST = 4, 12
"""Panels in a line, and in a figure."""
READABLE = 40
"""With more tokens than this their names are left out."""


def attention_maps(
    analysis: Record, example: int = 0, heads: str | list[str] = "confirmed", destination: str | None = None
) -> "Figure":
    """A panel for each label: from each position (downward) to each source, on one example that was measured on.

    Colour is the share of attention. A box marks the sources that the label names, at the positions that it is about. `heads`
    and `destination` as in `show`; of more than twelve labels the first twelve are drawn, and the figure says so. Raises
    `ConfigError` as `show` does. Cost: sampling the examples and one forward pass on one.
    """
    from matplotlib.figure import Figure

    seen = looked(analysis, example, heads, destination)
    rows = seen.rows[:MOST]
    tokens = marked_tokens(seen.task, seen.batch)
    across = min(ACROSS, len(rows))
    down = -(-len(rows) // across)
    side = max(2.2, 0.11 * min(len(tokens), READABLE) + 1.0)
    figure = Figure(figsize=(across * side + 0.6, down * (side + 0.25) + 0.3), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    image: Any = None
    for axes, row, pattern in zip(grid.flat, rows, seen.attention, strict=False):
        image = axes.imshow(pattern.float().numpy(), cmap="cividis", vmin=0, vmax=1)
        axes.set_title(head_name(row), loc="left", fontsize=8)
        _name_tokens(axes, tokens)
        _mark_sources(axes, seen, row)
    for axes in list(grid.flat)[len(rows) :]:
        axes.axis("off")
    figure.colorbar(image, ax=list(grid.flat), label="attention; □ named by the label", fraction=0.03, aspect=20)
    if len(rows) < len(seen.rows):
        figure.suptitle(f"the first {len(rows)} of {len(seen.rows)} labels", fontsize=8, x=0.01, ha="left")
    return figure


def _name_tokens(axes: Any, tokens: list[str]) -> None:
    if len(tokens) > READABLE:
        axes.tick_params(labelsize=6)
        return
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=5)
    axes.set_yticks(range(len(tokens)), tokens, fontsize=5)
    axes.tick_params(length=0)


def _mark_sources(axes: Any, seen: Any, row: dict[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    role = role_of(row)
    if role is None:
        return
    named = role_targets(seen.task, seen.batch, [role])[0, 0] & destination_rows(seen.batch, place_of(row))[0][:, None]
    for position, source in named.nonzero().tolist():
        axes.add_patch(Rectangle((source - 0.5, position - 0.5), 1, 1, fill=False, edgecolor="#d55e00", linewidth=0.9))
