"""What do runs answer that do not learn the paper's task without its curriculum? (docs/results/paper.md#scale-guesses)

    python analyses/scale_guesses.py                                    # table and figure from results/scale-guesses.csv
    python analyses/scale_guesses.py --from-scratch --finished --keep   # measure the runs that are finished

Their accuracy is about that of one who knows where chains end and names the end that most likely is the query's
(`paper_scale.py`), which was seen first. Whether they do so is asked here of what they answer, on 4,096 fresh examples: how
often they are `right`, how often they name an `end` of a chain, and what their answers are `worth` by place: how likely an end
that stands where the named one does is the query's, given where all ends stand and nothing else (`assumption.ends_guess`, over
all arrangements of the task). Who knows no more is right that often. Fixed before any run was asked: a run *guesses by place*
where 99 % of its answers or more are ends and it is right as often as they are worth (within Wilson's 99.9 % interval).

Asked after this was seen, since runs share examples and all were right a little more often than that: the same on 65,536
others, `more_right` and `more_worth`.

Columns of scale-guesses.csv, a row for each finished run, `right` and so on empty where it is solved. Runs that other machines
trained have left their results here and not their weights; they are not asked. Writes scale-guesses.csv and scale-guesses.png.
"""

from typing import Any

import pandas as pd
import torch
from assumption import ends_guess, ends_of
from claims import BLUE, GREY, ORANGE, Claim, Run, Tables, last_snapshot, main, markdown, percent, planned_runs, rate, span
from tqdm import tqdm

from stackheads.labelling.statistics import wilson
from stackheads.models import load
from stackheads.models.hooks import analysing
from stackheads.models.trust import forward_for_training
from stackheads.processes import worker_pool
from stackheads.report.figures.style import plain
from stackheads.seeds import Reserved, bare
from stackheads.tasks import Retrieval, from_config

SWEEPS = {"scale-curriculum-d3-final": (3, BLUE), "scale-curriculum-d4-final": (4, ORANGE)}
EXAMPLES, MORE, CHUNK = 4096, 65536, 1024
ENDS, CONFIDENCE = 0.99, 0.999
SHARES = ["right", "end", "worth"]
COLUMNS = ["sweep", "cell", "seed", "solved", *SHARES, "more_right", "more_worth"]


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
    more = answers(model, task, MORE, Reserved.DEPTH)
    return row | answers(model, task) | {f"more_{name}": more[name] for name in ("right", "worth")}


def task_of(sweep: str) -> Retrieval:
    """The task of a sweep's runs."""
    task = from_config(planned_runs(sweep)[0].settings["task"])
    assert isinstance(task, Retrieval), "the sweeps are of the paper's task"
    return task


def answers(model: Any, task: Retrieval, examples: int = EXAMPLES, seed: int = Reserved.FRESH) -> dict[str, float]:
    """How often the last hop is right and an end of a chain, and how likely it is by place."""
    generator, ends = bare(seed), ends_guess(task)
    found = torch.zeros(3, dtype=torch.float64)
    for _ in range(examples // CHUNK):
        batch = task.sample(CHUNK, generator)
        with analysing(model):
            logits = forward_for_training(model, batch.tokens)(batch.tokens)
        said = task.readout(logits, batch)[:, -1, 0].argmax(dim=-1)
        named, there = batch.tokens[:, 1:-1:2] == said[:, None], ends_of(task, batch.tokens)
        likely = ends.likely[(there[:, None] == ends.sets).all(dim=-1).int().argmax(dim=-1)]
        right = said == batch.targets[:, -1, 0]
        found += torch.stack([right, (named & there).any(dim=-1), (named * likely).sum(dim=-1)]).sum(dim=-1)
    return {name: round(share, 4) for name, share in zip(SHARES, (found / examples).tolist(), strict=True)}


def by_place(table: pd.DataFrame, examples: int = EXAMPLES, which: str = "") -> "pd.Series[bool]":
    """Which runs guess by place, by the rule; or by what they do on "more_" examples."""
    limits = [wilson(round(examples * share), examples, CONFIDENCE) for share in table[f"{which}right"].fillna(0)]
    no_more = [low <= worth <= high for (low, high), worth in zip(limits, table[f"{which}worth"], strict=True)]
    return (table["end"] >= ENDS) & pd.Series(no_more, index=table.index)


def tell(tables: Tables) -> str:
    """How many guess by place, and what they answer."""
    table, rows, more = tables["scale-guesses"], [], []
    for sweep, (hops, _) in SWEEPS.items():
        some = table[(table["sweep"] == sweep) & ~table["solved"]]
        if some.empty:
            continue
        shares = [f"{percent(some[name].median())} ({span(some[name], percent)})" for name in SHARES]
        best = percent(ends_guess(task_of(sweep)).right)
        rows.append([f"D = {hops}", len(some), *shares, best, rate(int(by_place(some).sum()), len(some))])
        over = 100 * (some["more_right"] - some["more_worth"])
        more.append(
            f"on {MORE:,} others, D = {hops}: {int(by_place(some, MORE, 'more_').sum())} of {len(some)}; right minus worth "
            f"{over.median():.1f} points ({over.min():.1f} to {over.max():.1f})"
        )
    header = ["task", "runs asked", "right", "an end", "worth by place", "the most", "guess by place [95 %]"]
    return "\n\n".join([markdown(header, rows), *more])


def draw(tables: Tables) -> Any:
    """A point for each run, on more examples: what its answers are worth by place, and how often it is right."""
    from matplotlib.figure import Figure

    table = tables["scale-guesses"]
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for sweep, (hops, colour) in SWEEPS.items():
        some = table[(table["sweep"] == sweep) & ~table["solved"]]
        axes.plot(some["more_worth"], some["more_right"], "o", color=colour, alpha=0.7, markeredgewidth=0, label=f"D = {hops}")
        axes.axvline(ends_guess(task_of(sweep)).right, color=colour, linewidth=0.8, linestyle=":")
    axes.axline((0.4, 0.4), slope=1, color=GREY, linewidth=0.8)
    axes.set(xlabel="what answers are worth by place (dotted: the most)", ylabel="share that is right")
    axes.legend(frameon=False)
    plain(axes)
    return figure


CLAIM = Claim(__doc__, "scale-guesses", tuple(SWEEPS), measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
