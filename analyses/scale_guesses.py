"""What do runs answer that do not learn the paper's task without its curriculum? (docs/results/paper.md#scale-guesses)

    python analyses/scale_guesses.py                                    # table and figure from results/scale-guesses.csv
    python analyses/scale_guesses.py --from-scratch --finished --keep   # measure the runs that are finished

Their accuracy is about that of one who knows where chains end and names the end that most likely is the query's
(`paper_scale.py`), which was seen first. Whether they do so is asked here of what they answer, on 4,096 fresh examples: how
often they are `right`, how often they name an `end` of a chain, and what their answers are `worth` by place: how likely an end
that stands where the named one does is the query's, given where all ends stand and nothing else (`assumption.blind`, over all
arrangements of the task). Who knows no more is right that often. Fixed before any run was asked: a run *guesses by place*
where 99 % of its answers or more are ends and it is right as often as they are worth (within Wilson's 99.9 % interval).

That does not ask for the best guess: who names any end guesses by place, too. Nor are the examples others than those of the
stored accuracies. So this was asked after it was seen, on 65,536 others: `more_right`, `more_worth`, and what answers are worth
to one who knows all statements and not which chain is asked about (`more_blind`); how often the end that stands last is named
(`last`), which always is one of the likeliest; and how often an answer stays the `same` when the query asks about another
chain, the mean over the others. Of who follows chains no answer does.

Columns of scale-guesses.csv, a row for each finished run, `right` and so on empty where it is solved. Runs that other machines
trained have left their results here and not their weights; they are not asked. Writes scale-guesses.csv and scale-guesses.png.
"""

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from assumption import all_statements, blind, ends_of
from claims import BLUE, GREY, ORANGE, Claim, Run, Tables, last_snapshot, main, markdown, percent, planned_task, rate, span
from depth import CONFIDENCE
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from stackheads.labelling.statistics import wilson
from stackheads.models import load
from stackheads.models.hooks import analysing
from stackheads.models.trust import forward_for_training
from stackheads.processes import worker_pool
from stackheads.report.figures.style import plain
from stackheads.seeds import Reserved, Stream, bare, stream
from stackheads.tasks import Batch, Retrieval
from stackheads.training.trainer import FRESH_EXAMPLES

SWEEPS = {"scale-curriculum-d3-final": (3, BLUE), "scale-curriculum-d4-final": (4, ORANGE)}
EXAMPLES, MORE, CHUNK = FRESH_EXAMPLES, 65536, 1024
ENDS = 0.99
SHARES = ["right", "end", "worth"]
ASKED = [*SHARES, "blind", "last", "same"]
COLUMNS = ["sweep", "cell", "seed", "solved", *SHARES, "more_right", "more_worth", "more_blind", "last", "same"]


def measure(runs: list[Run], workers: int) -> Tables:
    """A row for each run."""
    with worker_pool(workers) as pool:
        rows = list(tqdm(pool.map(row_of, runs), total=len(runs), desc="runs", disable=None))
    return {"scale-guesses": pd.DataFrame(rows).reindex(columns=COLUMNS)}


def row_of(run: Run) -> dict[str, Any]:
    """What one run answers; only its name and result where it is solved."""
    row = {**run.names, "solved": run.result["solved"]}
    if run.result["solved"]:
        return row
    torch.set_num_threads(1)
    model, task = load(last_snapshot(run)).model, task_of(run.sweep)
    found = answers(model, task, EXAMPLES, bare(Reserved.FRESH))
    more = answers(model, task, MORE, stream(0, Stream.GUESSES))
    renamed = {f"more_{name}": more[name] for name in ("right", "worth", "blind")}
    return row | {name: found[name] for name in SHARES} | renamed | {name: more[name] for name in ("last", "same")}


def task_of(sweep: str) -> Retrieval:
    """The task of a sweep's runs."""
    task = planned_task(sweep)
    assert isinstance(task, Retrieval), "the sweeps are of the paper's task"
    return task


def answers(model: Any, task: Retrieval, examples: int, generator: torch.Generator) -> dict[str, float]:
    """What the model answers on so many examples, some at a time; see the module."""
    found = torch.zeros(len(ASKED), dtype=torch.float64)
    for _ in range(examples // CHUNK):
        batch = task.sample(CHUNK, generator)
        said = answer(model, task, batch)
        named, ends = batch.tokens[:, 1:-1:2] == said[:, None], ends_of(task, batch.tokens)
        by_place, by_all = (blind(task, known).of(known(task, batch.tokens)) for known in (ends_of, all_statements))
        last = ends.cumsum(dim=-1) * ends == task.chains
        shares = [named * each for each in (ends, by_place, by_all, last)]
        same = torch.stack([answer(model, task, other) == said for other in of_other_chains(batch)]).double().mean(dim=0)
        right = said == batch.targets[:, -1, 0]
        found += torch.stack([right, *(share.sum(dim=-1) for share in shares), same]).sum(dim=-1)
    return {name: round(share, 4) for name, share in zip(ASKED, (found / examples).tolist(), strict=True)}


def of_other_chains(batch: Batch) -> list[Batch]:
    """The same statements with a query about another chain, for each of the others."""
    keys, values = batch.tokens[:, :-1:2], batch.tokens[:, 1:-1:2]
    others = (keys[:, :, None] != values[:, None, :]).all(dim=-1) & (keys != batch.tokens[:, -1:])
    queries = keys[others].view(len(keys), -1, 1).unbind(dim=1)
    return [replace(batch, tokens=torch.cat([batch.tokens[:, :-1], query], dim=1)) for query in queries]


def answer(model: Any, task: Retrieval, batch: Batch) -> Int[Tensor, "batch"]:
    """What it says to the query, of which the last hop alone is asked."""
    with analysing(model):
        return task.readout(forward_for_training(model, batch.tokens)(batch.tokens), batch)[:, -1, 0].argmax(dim=-1)


def by_place(table: pd.DataFrame) -> "pd.Series[bool]":
    """Which runs guess by place, by the rule."""
    return (table["end"] >= ENDS) & as_often(table["right"], table["worth"], EXAMPLES)


def as_often(right: "pd.Series[float]", worth: "pd.Series[float]", examples: int) -> "pd.Series[bool]":
    """Whether answers are right as often as they are worth."""
    limits = [wilson(round(examples * share), examples, CONFIDENCE) for share in right.fillna(0)]
    return pd.Series([low <= each <= high for (low, high), each in zip(limits, worth, strict=True)], index=right.index)


def tell(tables: Tables) -> str:
    """How many guess by place, and what they answer."""
    table, rows, again = tables["scale-guesses"], [], []
    for sweep, (hops, _) in SWEEPS.items():
        some = table[(table["sweep"] == sweep) & ~table["solved"]]
        if some.empty:
            continue
        shares = [f"{percent(some[name].median())} ({span(some[name], percent)})" for name in SHARES]
        best = percent(blind(task_of(sweep), ends_of).right)
        rows.append([f"D = {hops}", len(some), *shares, best, rate(int(by_place(some).sum()), len(some))])
        cells: list[Any] = [f"D = {hops}"]
        for name in ("more_worth", "more_blind"):
            above = some["more_right"] - some[name]
            as_worth = int(as_often(some["more_right"], some[name], MORE).sum())
            cells += [f"{percent(above.median())} ({span(above, percent)})", f"{as_worth} of {len(some)}"]
        again.append([*cells, *(f"{percent(some[name].median())} ({span(some[name], percent)})" for name in ("last", "same"))])
    header = ["task", "runs asked", "right", "an end", "worth by place", "the most", "guess by place [95 %]"]
    more = ["task", "right above worth by place", "as often", "above worth without the query", "as often", "last", "same"]
    return f"{markdown(header, rows)}\n\nOn {MORE:,} others, in points:\n\n{markdown(more, again)}"


def draw(tables: Tables) -> Any:
    """Two points for each run, on more examples: what its answers are worth, and how often it is right."""
    from matplotlib.figure import Figure

    table = tables["scale-guesses"]
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for sweep, (hops, colour) in SWEEPS.items():
        some = table[(table["sweep"] == sweep) & ~table["solved"]]
        for name, filled, words in (("more_worth", "full", "by place"), ("more_blind", "none", "without the query")):
            axes.plot(
                some[name], some["more_right"], "o", color=colour, fillstyle=filled, alpha=0.7, label=f"D = {hops}, {words}"
            )
        axes.axvline(blind(task_of(sweep), ends_of).right, color=colour, linewidth=0.8, linestyle=":")
    axes.axline((0.4, 0.4), slope=1, color=GREY, linewidth=0.8)
    axes.set(xlabel="what answers are worth (dotted: the most by place)", ylabel="share that is right")
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.8))
    plain(axes)
    return figure


CLAIM = Claim(__doc__, "scale-guesses", tuple(SWEEPS), measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
