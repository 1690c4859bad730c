"""An analysis in a notebook cell: table, verdict, circuit and attention; its selectors: tables, mechanism and pictures."""

import html
from typing import TYPE_CHECKING, Any

from stackheads.explanation.circuit import NOT_SOUGHT
from stackheads.explanation.explained import Explained, in_words
from stackheads.record import Record
from stackheads.report.attention import show
from stackheads.report.figures import circuit_diagram, gate_map, gated_rows, selector_map, svg_text
from stackheads.tables import records, role_of, with_gate

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ("head", "destination", "role", "status", "pattern", "effect", "write", "reason")
SELECTORS = ("head", "destination", "looks at", "status", "share", "gain", "effect", "readout", "write", "reason")
UNLOADED = "Attention is shown where the model is at hand: analyze(model, task) again."


def analysis_html(analysis: Record) -> str:
    """What Jupyter shows for an analysis."""
    accuracy = ", ".join(f"hop {hop}: {share:.1%}" for hop, share in analysis.accuracy.items())
    title = html.escape(f"{analysis.model.get('name')} on {analysis.task['name']}")
    rows = records(analysis.labels)
    roles = [None if role is None else str(role) for role in map(role_of, rows)]
    table = _table(analysis.labels.assign(role=roles).loc[:, list(with_gate(SHOWN, rows))])
    verdict = analysis.verdict if analysis.mechanism is None else f"{analysis.verdict}\nmechanism: {analysis.mechanism}"
    circuit = "" if analysis.circuit.missing == NOT_SOUGHT else svg_text(circuit_diagram(analysis))
    gated = gated_rows(analysis)
    gates = "" if gated is None else svg_text(gate_map(gated))
    attention = f"<p>{UNLOADED}</p>" if analysis.at_hand is None else show(analysis)._repr_html_()  # pyright: ignore[reportPrivateUsage]
    words = f"<p><b>{title}</b><br>{html.escape(accuracy)}</p>{table}<pre>{html.escape(verdict)}</pre>"
    return f"{words}{circuit}{gates}{attention}"


def selectors_html(explained: Explained) -> str:
    """What Jupyter shows for selectors."""
    levels = explained.curve.assign(readout=explained.curve["hop"].map("hop {}".format) + " @" + explained.curve["destination"])
    order = list(dict.fromkeys(levels["readout"]))
    curve = levels.pivot(index=["level", "selectors", "numbers"], columns="readout", values="recovered")
    curve = curve.loc[list(dict.fromkeys(zip(*(levels[name] for name in curve.index.names), strict=True))), order]
    looks = [in_words(row) for row in records(explained.table)]
    table = _table(explained.table.assign(**{"looks at": looks}).loc[:, list(SELECTORS)])
    mechanism = None if explained.mechanism is None else f"{explained.mechanism}: {explained.mechanism_reason}"
    said = "".join(f"<pre>{html.escape(text)}</pre>" for text in (mechanism, explained.program) if text is not None)
    drawn = "" if explained.weights.empty else svg_text(selector_map(explained.weights))
    levels_table = _table(curve.reset_index())
    return f"<p><b>{explained.title}</b></p>{levels_table}<p>{explained.in_short}</p>{table}{said}{drawn}"


def _table(labels: "pd.DataFrame") -> str:
    """The labels with words on the left and numbers on the right of their columns, which notebooks would not do."""
    words = labels.select_dtypes(exclude="number").columns
    style: Any = labels.style.hide(axis="index").format(na_rep="", precision=2, escape="html")
    return style.set_properties(subset=list(words), **{"text-align": "left"}).to_html()
