"""Figures, made without pyplot: nothing is drawn or opened on import, and no state is left behind."""

from pathlib import Path

from stackheads.explanation.explained import Explained
from stackheads.files import check_folder
from stackheads.record import Record
from stackheads.report.figures.attention import attention_maps
from stackheads.report.figures.circuit import circuit_diagram
from stackheads.report.figures.evidence import evidence_map
from stackheads.report.figures.gates import gate_map, gated_rows
from stackheads.report.figures.reach import reach_map
from stackheads.report.figures.selectors import selector_map
from stackheads.report.figures.style import COLOURS, FORMATS, hop_colours, save_figure, svg_text
from stackheads.report.figures.timeline import timeline

__all__ = [
    "COLOURS",
    "FILES",
    "attention_maps",
    "circuit_diagram",
    "evidence_map",
    "gate_map",
    "gated_rows",
    "hop_colours",
    "reach_map",
    "save_figure",
    "save_figures",
    "selector_map",
    "svg_text",
    "timeline",
]


DRAWN = {"evidence": evidence_map, "circuit": circuit_diagram, "reach": reach_map}
FILES = tuple(f"{name}{ending}" for name in (*DRAWN, "attention", "gates", "selectors") for ending in FORMATS)


def save_figures(analysis: Record, folder: Path | str, selectors: Explained | None = None) -> None:
    """Write `evidence`, `circuit` and `reach` as .png, .svg and .pdf into a folder; files of other names there stay.

    Where the model is at hand, `attention` too, of the confirmed heads or else of all, on the first example; and where labels
    have gates, `gates`: what their heads look at, value by value. With `selectors` those that have several numbers.
    What an earlier call wrote of these and this one does not is taken away, since it may be another model's.
    Raises `ConfigError` if they can't be written.
    """
    check_folder(folder, files=FILES)
    drawn = {name: draw(analysis) for name, draw in DRAWN.items()}
    rows = gated_rows(analysis)
    drawn |= {} if rows is None else {"gates": gate_map(rows)}
    drawn |= {} if analysis.at_hand is None else {"attention": attention_maps(analysis)}
    drawn |= {} if selectors is None or selectors.weights.empty else {"selectors": selector_map(selectors.weights)}
    for name, figure in drawn.items():
        for ending in FORMATS:
            save_figure(figure, Path(folder) / f"{name}{ending}")
    for name in FILES:
        if Path(name).stem not in drawn:
            (Path(folder) / name).unlink(missing_ok=True)
