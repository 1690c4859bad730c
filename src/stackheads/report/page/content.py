"""What the page says besides attention, as plain values for its template. No markup is made here."""

from dataclasses import asdict
from typing import Any

import pandas as pd

from stackheads.explanation.circuit import Circuit
from stackheads.explanation.explained import Explained, in_words
from stackheads.record import Missing, Record
from stackheads.report.figures.gates import LEAST, gated_rows
from stackheads.report.figures.selectors import panels_of
from stackheads.report.page.diagram import diagram
from stackheads.tables import natural, place_of, records, role_of, with_gate
from stackheads.trial.sufficiency import VARIANTS
from stackheads.trial.trial import Trial
from stackheads.types import Destination, Status

ESSENTIAL = ("head", "destination", "role", "status", "pattern", "effect", "write", "reason")
"""Columns of the labels that are shown at first; a control shows all."""
P_VALUES = ("null_p", "p")
"""Columns whose small numbers differ in their exponents."""
UNEXPLAINED = 0.1
"""Heads without a label that add less than this are left out, as in the terminal."""


def content(analysis: Record, trial: Trial | Missing | None) -> dict[str, Any]:
    """The template's variables."""
    labels = _with_roles(records(analysis.labels))
    return {
        "sentence": sentence(analysis),
        "model": str(analysis.model.get("name")),
        "task": str(analysis.task.get("name")),
        "verdict": analysis.verdict.splitlines(),
        "mechanism": analysis.mechanism,
        "reason": analysis.mechanism_reason or "",
        "program": (analysis.program or "").splitlines(),
        "agreement": analysis.program_agreement or {},
        "accuracy": [row for row in records(analysis.readouts) if row["destination"] == "query"],
        "readouts": table(records(analysis.readouts)),
        "columns": [column | {"essential": column["name"] in with_gate(ESSENTIAL, labels)} for column in _columns(labels)],
        "labels": labels,
        "carried": _carried(analysis.carried),
        "counts": {status.value: count for status in Status if (count := sum(row["status"] == status for row in labels))},
        "symbols": {status.value: status.symbol for status in Status},
        "places": [place.value for place in Destination],
        "heads": len({row["head"] for row in labels}),
        "jaccard": analysis.bootstrap_jaccard,
        "circuit": _circuit(analysis.circuit),
        "reach": _reach(analysis.reach),
        "gates": _gates(analysis),
        "trial": trial.to_dict() if isinstance(trial, Missing) else trial and _trial(trial),
        "measured": {"examples": analysis.examples, "seed": analysis.seed, **analysis.versions},
        "thresholds": asdict(analysis.thresholds),
        "settings": flat({"model": analysis.model, "task": analysis.task}),
    }


def _carried(carried: pd.DataFrame | None) -> dict[str, Any] | None:
    """What heads carry that no label explains, the columns that say it; None where nothing was asked."""
    rows = [] if carried is None else records(carried)
    names = ("answer", "carries", "kept", "kept_low", "attention", "readout", "effect", "control", "rival", "rival_kept")
    cells = [{"cell": f"{row['head']} @{place_of(row)}"} | {name: row[name] for name in (*names, "reason")} for row in rows]
    return table(cells) if cells else None


def sentence(analysis: Record) -> str:
    """The verdict in one sentence: how many heads are confirmed, in which roles, and what they make together."""
    heads = len(set(analysis.labels["head"]))
    confirmed = [row for row in records(analysis.labels) if row["status"] == Status.CONFIRMED and row["role"] is not None]
    if not confirmed:
        return f"None of {heads} heads is confirmed in any role."
    roles = ", ".join(sorted({str(role_of(row)) for row in confirmed}, key=natural))
    found = len({row["head"] for row in confirmed})
    text = f"{found} of {heads} heads {'is' if found == 1 else 'are'} confirmed in a role ({roles})"
    return (
        f"{text}; the mechanism is {analysis.mechanism}." if analysis.mechanism not in (None, "none", "other") else f"{text}."
    )


def _with_roles(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their role as text in one column, where they have any."""
    return [
        {
            name: str(role_of(row) or "") or None if name == "role" else value
            for name, value in row.items()
            if not (name == "hop" and "role" in row)
        }
        for row in rows
    ]


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as lists of values, and their columns."""
    return {"columns": _columns(rows), "rows": [list(row.values()) for row in rows]}


def _columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name of each column, and whether it holds numbers."""
    names = rows[0] if rows else []
    return [{"name": name, "numeric": any(_is_number(row[name]) for row in rows)} for name in names]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings as one level, `training.steps`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) and value else {f"{before}{name}": value}
    return found


def number(value: Any, column: str = "") -> str:
    """A value in a cell: two decimals for shares, powers of ten for small p-values, – for what is missing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0e}" if column in P_VALUES and 0 < value < 0.01 else f"{round(value, 2) + 0.0:.2f}"  # no -0.00
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _circuit(circuit: Circuit) -> dict[str, Any] | None:
    if circuit.missing is not None:
        return None
    content = circuit.to_dict()
    ends = ("from", "to", "input", "strength", "low", "high", "readout")
    cell = ("readout", "total", "direct", "self_repair")
    return {
        "diagram": diagram(circuit),
        "edges": table([{name: edge[name] for name in ends} for edge in content["edges"]]),
        "cells": table(
            [
                {"cell": node["name"], **{name: node[name] for name in cell}, "minimality": circuit.minimality[node["name"]]}
                for node in content["nodes"]
                if "total" in node
            ]
        ),
        "faithfulness": circuit.faithfulness,
        "completeness": circuit.completeness,
    }


def _gates(analysis: Record) -> list[dict[str, Any]]:
    """One table per head, destination and gate of the labels: roles by values."""
    panels: dict[str, dict[str, Any]] = {}
    rows = gated_rows(analysis)
    for row in [] if rows is None else records(rows):
        name = f"{row['head']} @{row['destination']}"
        panel = panels.setdefault(f"{name} {row['gate']}", {"name": name, "gate": row["gate"], "roles": {}})
        panel["roles"].setdefault(str(role_of(row)), {})[row["value"]] = {"share": row["mass"], "readable": row["leads"]}
    for panel in panels.values():
        panel["values"] = sorted({value for cells in panel["roles"].values() for value in cells})
        kept = {role: cells for role, cells in panel["roles"].items() if max(map(_share, cells.values())) >= LEAST}
        panel["roles"] = {role: kept[role] for role in sorted(kept, key=natural)}
    return list(panels.values())


WHAT = {
    "answer": "The fewest roles, slots, positions and tables, gated or not, by which all heads together still give the answer.",
    "attention": "The fewest roles, slots, positions and tables, gated or not, that tell each head’s attention.",
}


def selectors_content(explained: Explained | Missing) -> dict[str, Any]:
    """What each level of selectors recovers, and what every head looks at; or why there are none."""
    if isinstance(explained, Missing):
        return explained.to_dict()
    rows = records(explained.curve)
    levels: list[dict[str, Any]] = []
    for level in explained.levels:
        first = next(row for row in rows if row["level"] == level)
        asked = [row for row in rows if row["level"] == level]
        shares = {f"hop {row['hop']} @{row['destination']}": row["recovered"] for row in asked}
        levels.append({"level": level, "selectors": first["selectors"], "numbers": first["numbers"], **shares})
    looks = [
        {
            **{name: row[name] for name in ("head", "destination")},
            "looks at": in_words(row),
            **{"status": row["status"] or "–", "share": row["share"], "needed for": row["readout"], "effect": row["effect"]},
            **{"gain in nats": row["gain"], "write": row["write"], "reason": row["reason"] or "–"},
        }
        for row in records(explained.table)
    ]
    groups = [
        {"job": f"{row['job']} @{row['destination']}", "heads": row["heads"], "parts": row["parts"] or "–"}
        | {"together": row["joint"], "one by one": row["sum"], "of": row["readout"]}
        for row in records(explained.groups)
    ]
    panels = panels_of(explained.weights)
    return {
        "what": WHAT[explained.fitted_to],
        "title": _capital(explained.title),
        "levels": table(levels),
        "held": _capital(explained.in_short),
        "looks": table(looks),
        "groups": table(groups) if groups else None,
        "weights": [{"what": f"{head} @{at}: {what}", "table": _grid(rows)} for (head, at, what), rows in panels.items()],
        "mechanism": explained.mechanism,
        "reason": explained.mechanism_reason or "",
        "program": (explained.program or "").splitlines(),
        "agreement": explained.program_agreement,
    }


def _capital(text: str) -> str:
    """A line as a sentence begins."""
    return text[:1].upper() + text[1:]


def _grid(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Weights with a row for each value of the gate and a column for each place, distance or symbol."""
    lines: dict[Any, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["value"], {row["gate"] or "gate": "–" if row["value"] is None else str(row["value"])})
        line["weight" if row["at"] is None else str(row["at"])] = row["weight"]
    return table(list(lines.values()))


def _share(cell: dict[str, Any]) -> float:
    return cell["share"]


def _reach(frame: pd.DataFrame | None) -> list[dict[str, Any]] | None:
    """One table per destination at which some hop was probed, layers by hops; None where it was not looked for."""
    if frame is None:
        return None
    rows = frame.to_dict(orient="records")
    tables = []
    for destination in dict.fromkeys(row["destination"] for row in rows):
        mine = [row for row in rows if row["destination"] == destination]
        hops = sorted({hop for row in mine for hop in row["accuracy"]})
        if not hops:
            continue
        layers = [
            {
                "name": "embedding" if row["layer"] < 0 else f"layer {row['layer']}",
                "cells": [{"share": row["accuracy"].get(hop), "readable": hop in row["hops"]} for hop in hops],
            }
            for row in mine
        ]
        tables.append({"destination": destination, "hops": hops, "layers": layers})
    return tables


def _trial(trial: Trial) -> dict[str, Any]:
    necessity = records(trial.necessity)
    at_query = [row for row in necessity if row["readout"].endswith("@query")]
    roles = dict.fromkeys(map(role_of, at_query))
    readouts = list(dict.fromkeys(row["readout"] for row in at_query))
    cell = {(role_of(row), row["readout"]): row for row in at_query}
    fixed: dict[str, list[str]] = {}
    for row in records(trial.fixed):
        if row["replacement"]:
            fixed.setdefault(row["replacement"], []).append(f"{row['head']} @{place_of(row)}")
    return {
        "examples": trial.examples,
        "hops": list(trial.recovered()),
        "variants": [{"what": what, "recovered": trial.recovered(name)} for name, what in VARIANTS.items()],
        "sentences": [trial.prediction, *trial.exchanged],
        "unexplained": [row | {"place": place_of(row)} for row in records(trial.unexplained) if row["adds"] >= UNEXPLAINED],
        "readouts": readouts,
        "necessity": [{"role": str(role), "cells": [cell.get((role, readout)) for readout in readouts]} for role in roles],
        "fixed": fixed,
        "replaced_at_once": trial.replaced_at_once,
        "tables": {
            "Sufficiency: every readout": table(records(trial.sufficiency)),
            "Redirection: every hop pointed elsewhere": table(records(trial.redirection)),
            "Interchange: every pair of labelled heads of a layer": table(records(trial.interchange)),
            "Necessity: every role and readout": table(_with_roles(records(trial.necessity))),
            "Fixed patterns: every head": table(records(trial.fixed)),
        },
    }
