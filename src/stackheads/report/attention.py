"""Attention of chosen heads on one example, drawn by CircuitsVis (`AttentionHeads`, `AttentionPatterns`) in a notebook.

The elements are those of `circuitsvis.attention`, and CircuitsVis converts the values; only its wrapper is replaced. That one
asks google.com at every display whether there is a network, loads its script from a CDN if there is, writes the whole script
(1.3 MB) into every figure if there is none, and lets a token `</script>` end it. Here the script comes from the installed
package, once per notebook, and nothing is fetched.

Tokens carry a mark: `[hop 2]` is the statement that answers hop 2 of the question, `[hop -1]` walks the chain backward, and
what has no mark is not on the chain (on a cycle everything is). A head that implements hop j should look, from the query, at
`[hop j]`. CircuitsVis itself leaves out spaces and adds the position in round brackets.
"""

import html
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from uuid import uuid4

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.interventions import destination_rows
from stackheads.labelling.roles import role_targets
from stackheads.limits import whole
from stackheads.models.hooks import check_head, record
from stackheads.models.protocol import Model
from stackheads.record import NOT_AT_HAND, Record
from stackheads.report.tokens import tokens_as_text
from stackheads.tables import place_of, records, role_of
from stackheads.tasks import Batch, Task, labelling_batch
from stackheads.types import HeadId, Slot, Status

ELEMENTS = {"heads": "AttentionHeads", "patterns": "AttentionPatterns"}
WAITING = "The attention is drawn once the first cell that shows attention has run: run that cell again."


@dataclass(frozen=True)
class AttentionView:
    """What to draw. `props` are those of the CircuitsVis element, `notes` the lines below it."""

    element: str
    props: dict[str, Any]
    notes: tuple[str, ...]

    def html(self, script: bool = True) -> str:
        """The figure as HTML, with CircuitsVis' script or, for the second figure of a page, without."""
        return (script_html() if script else "") + self._figure()

    def _repr_html_(self) -> str:
        return self.html(_page.needs_script())

    def __repr__(self) -> str:
        return "\n".join(self.notes)

    def _figure(self) -> str:
        from circuitsvis.utils.convert_props import convert_props

        name = f"stackheads-{uuid4().hex[:12]}"
        props = convert_props(self.props).replace("<", "\\u003c")  # a token can't end the script
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"""<div id="{name}">{WAITING}</div>
<ul style="margin: 0; font-size: 90%">{notes}</ul>
<script>
(function draw() {{
  if (!document.getElementById("{name}")) return;
  if (!window.CircuitsVis) {{ setTimeout(draw, 200); return; }}
  document.getElementById("{name}").textContent = "";
  window.CircuitsVis.render("{name}", window.CircuitsVis.{self.element}, {props});
}})();
</script>"""


@dataclass(frozen=True)
class Looked:
    """One example, as a batch of one, the rows of the labels to look at, and the attention of their heads; `notes` in words."""

    task: Task
    batch: Batch
    rows: list[dict[str, Any]]
    attention: Float[Tensor, "row pos source"]
    notes: tuple[str, ...]


@cache
def script_html() -> str:
    """CircuitsVis' bundle from the installed package as a script element; a global of the page afterwards."""
    bundle = files("circuitsvis").joinpath("dist", "cdn", "iife.js").read_text(encoding="utf-8")
    bundle = bundle.replace("</script", "<\\/script").split("//# sourceMappingURL")[0]
    return f"<script>{bundle}\nwindow.CircuitsVis = CircuitsVis;</script>\n"


def show(
    analysis: Record,
    example: int = 0,
    heads: str | list[str] = "confirmed",
    destination: str | None = "query",
    view: str = "heads",
) -> AttentionView:
    """Attention on one example that `analyze` measured on.

    `heads` is "confirmed", "all" or a list of names; `destination` whose labels name them, None for every destination. Raises
    `ConfigError` for an analysis without its model, an unknown view, destination or head, or an example that was not measured.
    Cost: sampling the examples and one forward pass on one.
    """
    if view not in ELEMENTS:
        raise ConfigError(f"a view is one of {', '.join(ELEMENTS)}, got {view!r}: name one of these")
    seen = looked(analysis, example, heads, destination)
    tokens = marked_tokens(seen.task, seen.batch)
    props: dict[str, Any] = {"attention": seen.attention.mul(1e4).round().div(1e4), "tokens": tokens}
    if view == "heads":
        causal = seen.task.attention_dir == "causal"
        names = [head_name(row) for row in seen.rows]
        props |= {"attentionHeadNames": names, "maskUpperTri": causal, "minValue": 0, "maxValue": 1}
    return AttentionView(ELEMENTS[view], props, seen.notes)


def looked(analysis: Record, example: int, heads: str | list[str], destination: str | None) -> Looked:
    """Where chosen heads look on one example, as `show` says. Raises and costs what `show` does."""
    if (subject := analysis.at_hand) is None:
        raise ConfigError(f"heads are looked at in the model that an analysis was made from. {NOT_AT_HAND}: analyze it again")
    number = whole(example)
    if number is None or not 0 <= number < analysis.examples:
        raise ConfigError(f"an example is one of 0..{analysis.examples - 1}, got {example!r}: ask for one of these")
    model, task = subject
    batch = labelling_batch(task, analysis.examples, analysis.seed)[number : number + 1]
    rows, notes = _chosen(analysis, model, heads, destination)
    if not rows:
        raise ConfigError("heads must name one head or more, got none: name some, or 'all'")
    placed = batch.to(next(model.parameters()).device)
    pattern = record(model, placed.tokens, placed.pads).pattern[:, 0].cpu()
    picked = [HeadId.parse(row["head"]) for row in rows]
    attention = torch.stack([pattern[head.layer, head.index] for head in picked])
    notes += [note for row, own in zip(rows, attention, strict=True) for note in _looks(task, batch, row, own)]
    return Looked(task, batch, rows, attention, tuple(notes))


def marked_tokens(task: Task, batch: Batch) -> list[str]:
    """The tokens of a batch of one, with the hop that each statement answers."""
    marks = {}
    asked = (batch.slots[0] == Slot.QUERY).nonzero()
    for hop, source in zip(task.hops, batch.find[0, :, int(asked[-1])].tolist() if len(asked) else [], strict=False):
        if source >= 0:
            marks[source] = hop
            if source and batch.slots[0, source] == Slot.VALUE and batch.slots[0, source - 1] == Slot.KEY:
                marks[source - 1] = hop
    texts = tokens_as_text(task, batch)[0]
    return [f"{text} [hop {marks[place]}]" if place in marks else text for place, text in enumerate(texts)]


def head_name(row: dict[str, Any]) -> str:
    """A head with its label: "L2H2 hop 2 @value"; with its status where that is not confirmed."""
    role = role_of(row)
    status = "" if row["status"] in (Status.CONFIRMED, Status.NONE) else f" ({row['status']})"
    return " ".join(str(part) for part in (row["head"], role, f"@{place_of(row)}") if part) + status


def _chosen(
    analysis: Record, model: Model, heads: str | list[str], destination: str | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The label rows to draw, and a note where they are not those that were asked for."""
    places = list(dict.fromkeys(analysis.labels["destination"]))
    if destination is not None and destination not in places:
        raise ConfigError(f"a destination is one of {', '.join(places)}, got {destination!r}: name one of these")
    rows = [row for row in records(analysis.labels) if destination in (None, row["destination"])]
    if isinstance(heads, list):
        for name in heads:
            check_head(model, HeadId.parse(name))
        return [row for row in rows if row["head"] in heads], []
    if heads not in ("confirmed", "all"):
        raise ConfigError(f"heads is 'confirmed', 'all' or a list of names, got {heads!r}: use one of these")
    kept = [row for row in rows if heads == "all" or row["status"] == "confirmed"]
    where = "" if destination is None else f" @{destination}"
    return (kept, []) if kept else (rows, [f"no head is confirmed{where}: all are shown"])


def _looks(task: Task, batch: Batch, row: dict[str, Any], pattern: torch.Tensor) -> list[str]:
    """Where the label says the head looks in this example, and how much attention is there."""
    role = role_of(row)
    if role is None:
        return []
    target = role_targets(task, batch, [role])[0, 0]
    at = destination_rows(batch, place_of(row))[0] & target.any(dim=-1)
    places = at.nonzero().flatten().tolist()
    if not places:
        return [f"{head_name(row)}: no such source in this example"]
    share = float((pattern * target).sum(dim=-1)[at].mean())
    if len(places) > 1:
        return [f"{head_name(row)}: {share:.2f} of attention on its sources, mean of {len(places)} rows"]
    tokens = marked_tokens(task, batch)
    sources = ", ".join(f"“{tokens[place]}”" for place in target[places[0]].nonzero().flatten().tolist())
    return [f"{head_name(row)}: {share:.2f} of attention on {sources}, where the label says it looks"]


class _Page:
    """Which cell of the running notebook holds the script. A cell that is run again writes it again."""

    def __init__(self) -> None:
        self.holder: tuple[str, int] | None = None

    def needs_script(self) -> bool:
        """Whether the figure being shown must bring the script. Always outside notebooks, and in Colab, a page per cell."""
        running = _running_cell()
        if running is None or "google.colab" in sys.modules:
            return True
        if self.holder is None or (running[0] and running[0] == self.holder[0] and running != self.holder):
            self.holder = running
            return True
        return False


_page = _Page()


def _running_cell() -> tuple[str, int] | None:
    """The id (empty where the front end does not tell) and execution count of the notebook cell that runs."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    metadata = shell.parent_header.get("metadata", {}) if isinstance(getattr(shell, "parent_header", None), dict) else {}
    return str(metadata.get("cellId", "")), shell.execution_count
