"""An analysis in a notebook cell: table, verdict, circuit and attention."""

import html

from stackheads.analysis.result import Analysis
from stackheads.report.attention import show
from stackheads.report.figures import circuit_diagram, svg_text

SHOWN = ("head", "destination", "role", "hop", "status", "pattern", "effect", "write", "reason")
UNLOADED = "Attention is shown where the model is at hand: analyze(model, task) again."


def analysis_html(analysis: Analysis) -> str:
    """What Jupyter shows for an analysis."""
    accuracy = ", ".join(f"hop {hop}: {share:.1%}" for hop, share in analysis.accuracy.items())
    title = html.escape(f"{analysis.model.get('name')} on {analysis.task['name']}")
    labels = analysis.labels[list(SHOWN)].astype(object)
    table = labels.where(labels.notna(), "").to_html(index=False, float_format="{:.2f}".format, escape=True)
    verdict = analysis.verdict if analysis.mechanism is None else f"{analysis.verdict}\nmechanism: {analysis.mechanism}"
    circuit = "" if analysis.circuit is None else svg_text(circuit_diagram(analysis))
    attention = f"<p>{UNLOADED}</p>" if analysis.subject is None else show(analysis)._repr_html_()
    return f"<p><b>{title}</b><br>{html.escape(accuracy)}</p>{table}<pre>{html.escape(verdict)}</pre>{circuit}{attention}"
