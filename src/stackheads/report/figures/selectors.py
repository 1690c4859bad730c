"""The selectors that have many numbers, as pictures: hop against what is asked, places, symbol against symbol."""

from typing import TYPE_CHECKING, Any

from stackheads.errors import ConfigError
from stackheads.tables import records

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CELL, ACROSS, MOST = 0.2, 3, 24
"""Inches of a cell, panels side by side, and the most panels of one picture."""

Panel = tuple[str, str, str]


def selector_map(weights: "pd.DataFrame") -> "Figure":
    """A panel for each gated selector, table of places and table of symbols in `Explained.weights` (the first 24).

    Places, distances or the source's symbols from left to right, values of the gate bottom up; colour is the weight, red for
    sources that are looked at and blue for those that are looked away from. Draw some heads alone with
    `weights[weights["head"] == "L0H2"]`. Raises `ConfigError` for a table without rows.
    """
    from matplotlib.figure import Figure

    panels = panels_of(weights)
    if not panels:
        raise ConfigError("a selector map needs rows of Explained.weights, got none: name a head that has selectors there")
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    wide = max(len(_axis(rows, "at")) for rows in panels.values())
    high = max(len(_axis(rows, "value")) for rows in panels.values())
    size = (across * (CELL * wide + 1.2) + 0.9, down * (CELL * high + 0.85) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    largest = max(abs(row["weight"]) for rows in panels.values() for row in rows) or 1.0
    image: Any = None
    for axes, (name, rows) in zip(grid.flat, panels.items(), strict=False):
        image = _draw(axes, name, rows, largest)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.colorbar(image, ax=list(grid.flat), label="weight", fraction=0.04, aspect=14)
    return figure


def panels_of(weights: "pd.DataFrame") -> dict[Panel, list[dict[str, Any]]]:
    """The rows of each selector."""
    panels: dict[Panel, list[dict[str, Any]]] = {}
    for row in records(weights):
        panels.setdefault((row["head"], row["destination"], row["what"]), []).append(row)
    return dict(list(panels.items())[:MOST])


def _axis(rows: list[dict[str, Any]], name: str) -> list[int | None]:
    return sorted({row[name] for row in rows}, key=lambda value: -1 if value is None else value)


def _draw(axes: Any, name: Panel, rows: list[dict[str, Any]], largest: float) -> Any:
    import numpy as np

    across, up = _axis(rows, "at"), _axis(rows, "value")
    weight = np.full((len(up), len(across)), np.nan)
    for row in rows:
        weight[up.index(row["value"]), across.index(row["at"])] = row["weight"]
    image = axes.imshow(weight, cmap="RdBu_r", vmin=-largest, vmax=largest, origin="lower", aspect="equal")
    axes.set_title(f"{name[0]} @{name[1]}\n{name[2]}", loc="left", fontsize=7)
    step = 1 + len(across) // 12
    axes.set_xticks(range(0, len(across), step), ["" if at is None else str(at) for at in across[::step]], fontsize=6)
    axes.set_yticks(range(len(up)), ["" if value is None else str(value) for value in up], fontsize=6)
    if rows[0]["at"] is not None:
        axes.set_xlabel(name[2].split(" × ")[-1], fontsize=6)
    if rows[0]["gate"] is not None:
        axes.set_ylabel(rows[0]["gate"], fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image
