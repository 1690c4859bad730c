"""Figures, made without pyplot: nothing is drawn or opened on import, and no state is left behind."""

from stackheads.report.figures.circuit import circuit_diagram
from stackheads.report.figures.evidence import evidence_map
from stackheads.report.figures.reach import reach_map
from stackheads.report.figures.style import COLOURS, hop_colours, save_figure
from stackheads.report.figures.timeline import timeline

__all__ = ["COLOURS", "circuit_diagram", "evidence_map", "hop_colours", "reach_map", "save_figure", "timeline"]
