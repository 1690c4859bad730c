"""The circuit: which confirmed heads feed which, by what input, and whether they are all there is to it.

Nodes are the confirmed (head, destination) cells and `logits`. An edge from sender to receiver is typed q, k or v: path
patching (`interventions/paths.py`) with the sender's output from a matched example; its strength is the share of the margin
gap that this destroys, at the readout that shows it best: where it is largest for its error, of all that are tried together
(`statistics.py`). Left out are edges nearer to zero than `min_effect`, or with an interval that reaches it; some are negative.
An edge to `logits` is the direct path. Node attributes: `total`, the effect of ablating the cell; `direct`, the part that goes
straight to the logits, at the same readout; `self_repair` = direct - total, above zero where later heads make up for what is
lost.

Whether the circuit is all there is to it is asked by three criteria (`criteria.py`).
Cost: at most two forward passes for each pair, three at one destination, and those of the criteria; through hooks five times
as many.
"""

from collections.abc import Sequence
from typing import Any

import networkx as nx
from jaxtyping import Float
from torch import Tensor

from stackheads.explanation.criteria import Criteria
from stackheads.explanation.ideal import silenced
from stackheads.interventions import ABLATIONS, INPUTS, Sender, destination_rows, direct_logits, path_edits
from stackheads.interventions.paths import Input
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.cause import effects_on_open
from stackheads.labelling.statistics import Resampling, brought, resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import decisive, telling
from stackheads.seeds import Stream, stream
from stackheads.types import Destination

LOGITS = "logits"
NOT_SOUGHT = "it was not looked for, which explain=True does"
NO_HEAD = "no head is confirmed on readouts that the model answers"


class Circuit(nx.MultiDiGraph):  # pyright: ignore[reportMissingTypeArgument]
    """A directed graph of confirmed cells, edges keyed by input ("q", "k", "v"; "logits" for the direct path).

    One that is not to be had is empty, and says why (`missing`).
    """

    @property
    def missing(self) -> str | None:
        """Why there is no circuit; None where there is one."""
        return self.graph.get("missing")

    def __str__(self) -> str:
        return super().__str__() if self.missing is None else f"no circuit: {self.missing}"

    @property
    def faithfulness(self) -> dict[str, float]:
        """F(C): mean, median, tenth."""
        return self.graph["faithfulness"]

    @property
    def completeness(self) -> dict[str, float]:
        """Incompleteness: random_mean, random_worst, greedy; for the greedy set median and ninetieth. 0 is complete."""
        return self.graph["completeness"]

    @property
    def minimality(self) -> dict[str, float]:
        """For each cell its minimality score; 0 means that the circuit does without it."""
        return self.graph["minimality"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        if self.missing is not None:
            return {"missing": self.missing}
        return {
            "nodes": [{"name": name, **values} for name, values in self.nodes(data=True)],
            "edges": [
                {"from": sender, "to": receiver, "input": key, **values}
                for sender, receiver, key, values in self.edges(keys=True, data=True)
            ],
            **self.graph,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Circuit":
        """What `to_dict` gave."""
        if not content.get("faithfulness"):
            return no_circuit(content.get("missing", NO_HEAD))
        circuit = cls()
        for node in content["nodes"]:
            circuit.add_node(node["name"], **{key: value for key, value in node.items() if key != "name"})
        for edge in content["edges"]:
            values = {key: value for key, value in edge.items() if key not in ("from", "to", "input")}
            circuit.add_edge(edge["from"], edge["to"], edge["input"], **values)
        circuit.graph.update({key: content[key] for key in ("faithfulness", "completeness", "minimality")})
        return circuit


def no_circuit(why: str = NOT_SOUGHT) -> Circuit:
    """An empty one that says why."""
    return Circuit(missing=why, faithfulness={}, completeness={}, minimality={})


def find_circuit(bench: Bench, labels: Sequence[Label], thresholds: Thresholds, seed: int) -> Circuit:
    """The circuit of the confirmed cells; one that says so where there are none."""
    confirmed = [label for label in labels if label.status == "confirmed" and label.role is not None]
    if not confirmed or not bool(bench.baseline.open.any()):
        return no_circuit(NO_HEAD)
    circuit = Circuit()
    generator, batch = stream(seed, Stream.BOOTSTRAP, "circuit"), bench.clean.batch
    draws = resampling(len(batch), thresholds.resampling_draws, thresholds.confidence, generator)
    _add_nodes(circuit, bench, confirmed, draws, thresholds)
    for receiver in confirmed:
        _add_edges(circuit, bench, confirmed, receiver, draws, thresholds)
    criteria = Criteria(bench, labels, confirmed, stream(seed, Stream.CIRCUIT_SETS))
    circuit.graph.update(criteria.all())
    return circuit


def _add_nodes(circuit: Circuit, bench: Bench, confirmed: Sequence[Label], draws: Resampling, thresholds: Thresholds) -> None:
    circuit.add_node(LOGITS)
    baseline = bench.baseline.on_cpu
    directs = brought(
        [bench.scorer.margin(direct_logits(bench.model, bench.clean, _sender(bench, label))) for label in confirmed]
    )
    totals = brought([bench.margin(_ablated(bench, [label])) for label in confirmed])
    for label, direct, total in zip(confirmed, directs, totals, strict=True):
        assert label.role is not None
        lost = {"total": baseline.clean.margin - total, "direct": baseline.clean.margin - direct}
        effects = effects_on_open(lost["total"], baseline, draws)
        at = bench.open_readouts[telling(effects, thresholds.min_effect)]
        shares = {name: (value[:, at].sum() / baseline.gap[:, at].sum()).item() for name, value in lost.items()}
        circuit.add_node(
            str(label),
            head=str(label.head),
            layer=label.head.layer,
            destination=str(label.destination),
            gate=None if label.gate is None else str(label.gate),
            role=label.role.name,
            hop=label.role.hop,
            readout=str(bench.baseline.readouts[at]),
            **shares,
            self_repair=shares["direct"] - shares["total"],
        )
        _add_edge(circuit, bench, (str(label), LOGITS, LOGITS), direct, draws, thresholds)


def _add_edges(
    circuit: Circuit, bench: Bench, confirmed: Sequence[Label], receiver: Label, draws: Resampling, thresholds: Thresholds
) -> None:
    """All edges into one receiver, its senders batched."""
    rows = destination_rows(bench.clean.batch, receiver.where)
    for part in INPUTS:
        labels = [
            label
            for label in confirmed
            if label.head.layer < receiver.head.layer and _reaches(label.destination, receiver.destination, part)
        ]
        if not labels:
            continue
        senders = [_sender(bench, label) for label in labels]
        edits = path_edits(bench.model, bench.clean, receiver.head, rows, senders, part)
        for label, margin in zip(labels, brought([*bench.margins([[edit] for edit in edits])]), strict=True):
            _add_edge(circuit, bench, (str(label), str(receiver), part), margin, draws, thresholds)


def _reaches(sender: Destination, receiver: Destination, part: Input) -> bool:
    """A query is made where the receiver reads from; keys and values where it looks, which may be anywhere."""
    return sender == receiver if part == "q" else True


def _add_edge(
    circuit: Circuit,
    bench: Bench,
    edge: tuple[str, str, str],
    margin: Float[Tensor, "example readout"],
    draws: Resampling,
    thresholds: Thresholds,
) -> None:
    effects = effects_on_open(bench.baseline.on_cpu.clean.margin - margin, bench.baseline, draws)
    if decisive(effects, thresholds.min_effect):
        number = telling(effects, thresholds.min_effect)
        effect = effects.at(number)
        circuit.add_edge(
            *edge,
            strength=effect.value,
            low=effect.low,
            high=effect.high,
            readout=str(bench.baseline.readouts[bench.open_readouts[number]]),
        )


def _sender(bench: Bench, label: Label) -> Sender:
    return Sender(
        label.head,
        destination_rows(bench.clean.batch, label.where),
        ABLATIONS["resample"](bench.clean, label.head),
    )


def _ablated(bench: Bench, labels: Sequence[Label]) -> list[Any]:
    return silenced(bench, labels, [], "resample")
