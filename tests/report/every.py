"""An analysis and an emergence in which every role and every status stands, for all that prints or draws one.

The numbers are made up; a row of each status for each role, at changing heads and destinations, and heads from L0H0 to L1H11,
so that L0H10 follows L0H9 and not L0H1.
"""

from typing import get_args

import pandas as pd

from stackheads import Analysis, Emergence
from stackheads.explanation.circuit import LOGITS, Circuit
from stackheads.explanation.explained import Explained
from stackheads.explanation.groups import GROUPS
from stackheads.explanation.measuring import CHANNELS, CURVE, EFFECT, TABLE
from stackheads.explanation.weights import WEIGHTS
from stackheads.labelling.carrying import carried_table
from stackheads.labelling.thresholds import Thresholds
from stackheads.tables import label_frame
from stackheads.timeline.emergence import step_row
from stackheads.timeline.result import SYMBOLS, accuracy_frame, heads_frame, steps_frame
from stackheads.types import Destination, Gate, Gated, HeadId, Role, RoleName, Status, destination_of, where

NUMBERS = {"hop": (-12, -1, 1, 2, 12), "condition": (0, 1, 12), "unchosen": (1, 12), "key": (0, 1, 12)}
ROLES = [Role(name, number) for name in get_args(RoleName) for number in NUMBERS.get(name, (None,))]
HEADS = 12
PLACES = list(Destination)
GATES = (Gate("asked", (1, 2, 3, 7)), Gate("own symbol", tuple(range(0, 40, 2))))
UNDECIDED = "undecided: 0.31 of attention on {role}, 0.14 on start; about 2,048 examples would decide"


def cells():
    """A (head, where, role, status) for each role with each status, in the order of heads; each third one under a gate."""
    pairs = [(role, status) for role in ROLES for status in Status]
    heads = sorted(HeadId(number % 2, number // 2 % HEADS) for number in range(len(pairs)))
    gates = [GATES[number // 3 % len(GATES)] if number % 3 == 0 else None for number in range(len(pairs))]
    places = [where(PLACES[number % len(PLACES)], gate) for number, gate in enumerate(gates)]
    return [(head, place, *pair) for head, place, pair in zip(heads, places, pairs, strict=True)]


def gate_text(place):
    """The gate of a place as labels hold it."""
    return str(place.gate) if isinstance(place, Gated) else None


def label(head, place, role, status):
    """A row of labels; as verdicts do it, none of `none` or `undecided` names a role, though the head looks like one."""
    named = role if status not in (Status.NONE, Status.UNDECIDED) else None
    shares = dict.fromkeys(("pattern", "rival", "effect", "effect_low", "effect_high", "accuracy_effect", "null_p"), 0.5)
    return {
        "head": str(head),
        "layer": head.layer,
        "destination": str(destination_of(place)),
        "selector": "role" if named else None,
        "gate": gate_text(place),
        "share": 0.5 if named else None,
        "role": named and named.name,
        "hop": named and named.hop,
        "status": str(status),
        **shares,
        "write": 0.25 if named else None,
        "reason": UNDECIDED.format(role=role) if status == Status.UNDECIDED else f"looks at {role} and is {status}",
        "looks_like": str(role),
        "readout": "hop 1 @query",
        "effect_mean": None,
        "effect_zero": None,
        "evidence": "exact",
        "examples": 64,
        "would_decide": 2048 if status == Status.UNDECIDED else None,
    }


def carried(head, place, role):
    """A row of what heads carry that no label explains."""
    named = {"head": str(head), "layer": head.layer, "destination": str(destination_of(place)), "gate": gate_text(place)}
    kept = dict.fromkeys(("kept", "kept_low", "kept_high", "logits", "effect", "control"), 0.95) | {"attention": 0.05}
    beside = {
        "also": None,
        "readout": "hop 1 @query",
        "rival": "start",
        "rival_kept": 0.1,
        "rows": 64,
        "left_out": 0,
        "examples": 64,
    }
    return named | {"answer": "yes", "carries": str(role), **kept, **beside, "reason": f"carries the token of {role}"}


def circuit():
    """A node for each confirmed cell, each at layer 0 feeding one at layer 1, and all of these the logits."""
    found = Circuit(
        faithfulness={"mean": 1.0, "median": 1.0, "tenth": 1.0},
        completeness=dict.fromkeys(("random_mean", "random_worst", "greedy", "greedy_median", "greedy_ninetieth"), 0.0),
        minimality={},
    )
    found.add_node(LOGITS)
    confirmed = [cell[:3] for cell in cells() if cell[3] == Status.CONFIRMED]
    for head, place, role in confirmed:
        named = {"head": str(head), "layer": head.layer, "role": role.name, "hop": role.hop}
        named |= {"destination": str(destination_of(place)), "gate": gate_text(place)}
        found.add_node(f"{head} @{place}", **named, readout="hop 1 @query", total=0.5, direct=0.5, self_repair=0.0)
        found.graph["minimality"][f"{head} @{place}"] = 0.5
    names = [f"{head} @{place}" for head, place, _ in confirmed]
    last = names[-1]
    for name in names:
        values = {"strength": 0.5, "low": 0.4, "high": 0.6, "readout": "hop 1 @query"}
        end = (last, "k") if found.nodes[name]["layer"] == 0 else (LOGITS, LOGITS)
        found.add_edge(name, end[0], end[1], **values)
    return found


def analysis():
    """Every role with every status."""
    return Analysis(
        model={"name": "made", "layers": 2, "heads": HEADS},
        task={"name": "by hand"},
        seed=0,
        examples=64,
        thresholds=Thresholds(),
        versions={"stackheads": "0"},
        labels=label_frame([label(*cell) for cell in cells()]),
        readouts=pd.DataFrame(
            [
                {
                    "destination": "query",
                    "hop": 1,
                    "accuracy": 1.0,
                    "chance_accuracy": 0.1,
                    "margin": 2.0,
                    "gap": 2.0,
                    "open": True,
                }
            ]
        ),
        effects=pd.DataFrame(
            [
                {
                    "head": "L0H0",
                    "destination": "query",
                    "ablation": "resample",
                    "readout": "hop 1 @query",
                    "effect": 0.5,
                    "accuracy_effect": 0.5,
                }
            ]
        ),
        carried=carried_table([carried(*cell[:3]) for cell in cells() if cell[3] == Status.CAUSAL_UNCLASSIFIED]),
        mechanism="other",
        mechanism_reason="it was made up",
        program="layer 0: nothing",
        program_agreement={1: 0.5},
        reach=pd.DataFrame([{"layer": 0, "destination": "query", "hops": (1,), "accuracy": {1: 1.0}}]),
        circuit=circuit(),
        bootstrap_jaccard=1.0,
    )


def emergence():
    """Every role, and at some snapshot every status, the extra one among them."""
    steps, heads, rows = [100 * number for number in range(1, 11)], [], []
    rows.append({"what": "hop 1", "kind": "hop", "destination": "query", "hop": 1} | step_row([True] * 10, [], steps, 0.95))
    statuses = list(SYMBOLS)
    for number, role in enumerate(ROLES):
        head, destination = HeadId(number % 2, number), PLACES[number % len(PLACES)]
        seen = [statuses[(number + place) % len(statuses)] for place in range(9)] + ["confirmed"]
        named = {"head": str(head), "layer": head.layer, "destination": str(destination), "role": role.name, "hop": role.hop}
        heads.append([named | {"status": status, "pattern": 0.5, "effect": None, "readout": None} for status in seen])
        holds = [status == "confirmed" for status in seen]
        what = {"what": f"{head} @{destination} {role}", "kind": "head"}
        rows.append(what | named | step_row(holds, [], steps, 0.95))
    return Emergence(
        model={"name": "made", "layers": 2, "heads": len(ROLES)},
        task={"name": "by hand"},
        training={},
        seed=0,
        examples=64,
        bootstraps=0,
        thresholds=Thresholds(),
        versions={},
        accuracy=accuracy_frame({step: {1: 1.0} for step in steps}),
        heads=heads_frame([{"step": step} | row[place] for place, step in enumerate(steps) for row in heads]),
        steps=steps_frame(rows),
    )


def explained():
    """A selector of each kind, of every role, gated and not, for and against, a head that looks evenly, and two levels."""
    kinds = [("role", str(role), role) for role in ROLES]
    kinds += [("slot", "value slots", None), ("position", "distance", None), ("content", "own symbol × symbol of key", None)]
    rows = []
    for number, (kind, what, role) in enumerate(kinds):
        for gate, values, weight in ((None, None, 2.0), (None, None, -2.0), ("asked", "1..4, 7", 1.0)):
            head, gated = HeadId(number % 2, number // 2 % HEADS), gate if kind in ("role", "slot") else None
            told = selector(head, kind, what, role, gated, values if gated else None, weight)
            rows.append(told | {"status": str(list(Status)[len(rows) % len(Status)])})
    rows.append(selector(HeadId(2, 0), "slot", "uniform", None, None, None, None) | dict.fromkeys(CHANNELS))
    levels = [("roles", 3, 3), ("content", len(rows), 500)]
    curve = [(*level, place, hop, 0.9) for level in levels for place in ("query", "value") for hop in (1, 2, 12)]
    groups = [("hop 12", "value", "L0H0, L0H10", part, 0.5, 0.25, "hop 12 @value") for part in (None, "L0H0 asked 1..4")]
    return Explained(
        examples=64,
        seed=0,
        table=pd.DataFrame(rows, columns=[*TABLE, *EFFECT, *CHANNELS]).astype({"hop": "Int64"}),
        curve=pd.DataFrame(curve, columns=CURVE),
        groups=pd.DataFrame(groups, columns=GROUPS),
        held=pd.DataFrame([("query", 1, 0.75)], columns=["destination", "hop", "recovered"]),
        swapped=pd.DataFrame([("query", 1, 0.1)], columns=["destination", "hop", "recovered"]),
        weights=weights(),
        shuffled=pd.DataFrame([("query", 1, 0.0)], columns=["destination", "hop", "recovered"]),
        mechanism="doubling",
        mechanism_reason="selectors let the query follow 1, 12 hops",
        program="layer 0: hop 12 @value when asked 1..4",
        program_agreement={1: 1.0, 12: 0.5},
    )


def weights():
    """Of a selector under a gate, a table of distances, and a table of symbols."""
    rows = [("L0H0", "value", "hop 12 by asked", "asked", value, None, 1.0) for value in (1, 2, 12)]
    rows += [("L1H0", "value", "distance", None, None, at, -0.5) for at in (-1, 0, 1)]
    what = "own symbol × symbol of key"
    rows += [("L1H1", "value", what, "own symbol", value, at, 0.1 * (value - at)) for value in range(4) for at in range(4)]
    return pd.DataFrame(rows, columns=WEIGHTS).astype({"value": "Int64", "at": "Int64"})


def selector(head, kind, what, role, gate, values, weight):
    """A row of a table of selectors."""
    named = {"role": role and role.name, "hop": role and role.hop, "gate": gate, "values": values, "weight": weight}
    effect = {"effect": 0.5, "effect_low": 0.4, "effect_high": 0.6, "readout": "hop 12 @value", "head_effect": 0.5}
    shown = dict(zip(CHANNELS, ("confirmed", 0.5, 0.4, 0.6, None, 0.5, "made <up>"), strict=True))
    place = {"head": str(head), "layer": head.layer, "destination": "value", "selector": kind, "what": what}
    return {**place, **named, "numbers": 1, "share": 0.25, **effect, **shown}
