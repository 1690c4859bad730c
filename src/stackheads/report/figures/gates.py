"""Where heads look, value by value of what the position knows: hop against hops asked, or against the own symbol."""

from typing import TYPE_CHECKING, Any

from stackheads.errors import ConfigError
from stackheads.labelling.gating import by_gate
from stackheads.record import Record
from stackheads.tables import natural, records, role_of
from stackheads.types import Gate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CELL, ACROSS = 0.26, 3
LEAST = 0.1
"""Roles that take less of a head's attention at every value are left out."""


def gate_map(table: "pd.DataFrame") -> "Figure":
    """A panel for each head, destination and gate of `Analysis.by_gate`: values from left to right, roles bottom up.

    Colour is the attention on the role's source; a dot marks roles that lead. Cells without a colour were seen too seldom.
    Draw some heads alone with `table[table["head"] == "L2H0"]`. Raises `ConfigError` for a table without rows.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in records(table):
        panels.setdefault((row["head"], row["destination"], row["gate"]), []).append(row)
    if not panels:
        raise ConfigError("a gate map needs rows of Analysis.by_gate, got none: name a head and a gate that are there")
    shown = {key: _roles(rows) for key, rows in panels.items()}
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    values = max(len({row["value"] for row in rows}) for rows in panels.values())
    height = CELL * max(map(len, shown.values())) + 0.75
    figure = Figure(figsize=(across * (CELL * values + 1.1) + 1.0, down * height + 0.4), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    image: Any = None
    for axes, (key, rows) in zip(grid.flat, panels.items(), strict=False):
        image = _draw(axes, rows, shown[key])
        axes.set_title(f"{key[0]} @{key[1]}", loc="left", fontsize=9)
        axes.set_xlabel(key[2], fontsize=8)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.colorbar(image, ax=list(grid.flat), label="attention; ● leads", fraction=0.04, aspect=12)
    return figure


def gated_rows(analysis: Record) -> "pd.DataFrame | None":
    """The rows of `by_gate` about the heads and gates that the labels name; None without any, or without the model."""
    rows = [row for row in records(analysis.labels) if row.get("gate") is not None]
    named = {(row["head"], row["destination"], Gate.parse(row["gate"]).name) for row in rows}
    if not named or (subject := analysis.at_hand) is None:
        return None
    found = by_gate(*subject, analysis.examples, analysis.seed, analysis.thresholds)
    keys = zip(found["head"], found["destination"], found["gate"], strict=True)
    return found.loc[[key in named for key in keys], :]


def _roles(rows: list[dict[str, Any]]) -> list[str]:
    """The roles that take enough attention at some value, or else the one that takes most."""
    most: dict[str, float] = {}
    for row in rows:
        most[str(role_of(row))] = max(row["mass"], most.get(str(role_of(row)), 0.0))
    kept = [role for role, mass in most.items() if mass >= LEAST] or [max(most, key=lambda role: most[role])]
    return sorted(kept, key=natural)


def _draw(axes: Any, rows: list[dict[str, Any]], roles: list[str]) -> Any:
    import numpy as np

    values = sorted({row["value"] for row in rows})
    mass = np.full((len(roles), len(values)), np.nan)
    for row in rows:
        if str(role_of(row)) in roles:
            at = roles.index(str(role_of(row))), values.index(row["value"])
            mass[at] = row["mass"]
            if row["leads"]:
                axes.plot(at[1], at[0], "o", color="black", markersize=4)
    image = axes.imshow(mass, cmap="cividis", vmin=0, vmax=1, origin="lower", aspect="auto")
    axes.set_xticks(range(len(values)), [str(value) for value in values], fontsize=7)
    axes.set_yticks(range(len(roles)), roles, fontsize=7)
    axes.set_xticks(np.arange(len(values) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(roles) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image
