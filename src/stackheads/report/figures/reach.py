"""Reach by layer: which hops a linear probe reads at each destination after each layer (`explanation/reach.py`)."""

from textwrap import fill
from typing import TYPE_CHECKING, Any

from stackheads.explanation.reach import READABLE, reach_records
from stackheads.record import Record
from stackheads.report.figures.circuit import LETTERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.38


def reach_map(analysis: Record) -> "Figure":
    """One panel per destination: layers bottom up, hops from left to right, held-out accuracy of the probe as colour.

    A dot marks what counts as readable; a hatched cell is a hop that too few positions have. Without probes the figure says so.
    """
    from matplotlib.figure import Figure

    title = f"{analysis.model.get('name')}: {analysis.task['name']}"
    rows = [] if analysis.reach is None else reach_records(analysis.reach)
    if not any(row["accuracy"] for row in rows):
        said = "reach was not measured" if not rows else "no hop can be probed: too few positions have one"
        figure = Figure(figsize=(6, 1.2))
        figure.text(0.03, 0.5, f"{fill(title, 80)}\n{said}", va="center", fontsize=10)
        return figure
    places = list(dict.fromkeys(row["destination"] for row in rows))
    layers = sorted({row["layer"] for row in rows})
    hops = sorted({int(hop) for row in rows for hop in row["accuracy"]})
    figure = Figure(figsize=(2.2 + len(places) * (CELL * len(hops) + 0.4), 1.6 + CELL * len(layers)), layout="constrained")
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    images = []
    for axes, place in zip(panels, places, strict=True):
        images.append(_draw(axes, [row for row in rows if row["destination"] == place], layers, hops))
        axes.set_title(f"@{place}", loc="left", fontsize=9)
    names = ["embedding" if layer < 0 else f"after layer {layer}" for layer in layers]
    panels[0].set_yticks(range(len(layers)), names, fontsize=8)
    figure.supxlabel(f"hop; ● readable: the probe is right in {READABLE:.0%} or more", fontsize=8)
    figure.colorbar(images[0], ax=list(panels), label="accuracy of the probe", fraction=0.04)
    figure.suptitle(fill(title, int(LETTERS * figure.get_figwidth())), x=0.01, ha="left", fontsize=10)
    return figure


def _draw(axes: Any, rows: list[dict[str, Any]], layers: list[int], hops: list[int]) -> Any:
    import numpy as np

    shares = np.full((len(layers), len(hops)), np.nan)
    for row in rows:
        for hop, share in row["accuracy"].items():
            if share is not None:
                shares[layers.index(row["layer"]), hops.index(int(hop))] = share
    axes.set_facecolor("#FFFFFF")
    axes.patch.set(hatch="////", edgecolor="#BBBBBB")
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, origin="lower", aspect="auto")
    for y, x in zip(*np.nonzero(shares >= READABLE), strict=True):
        axes.plot(x, y, "o", color="black", markersize=4)
    axes.set_xticks(range(len(hops)), [str(hop) for hop in hops], fontsize=8)
    axes.set_xticks(np.arange(len(hops) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(layers) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.0)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image
