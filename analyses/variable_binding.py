"""Does a small model learn variable binding in three phases: random constants, a heuristic of early lines, dereferencing?

    python analyses/variable_binding.py                 # tables and figure from analyses/results/variable-binding*.csv, seconds
    python analyses/variable_binding.py --from-scratch  # trains and measures twelve models first, hours (both may be killed)

The claim of Wu, Geiger & Millière (arXiv 2505.20896), on programs of 16 lines whose queried variable is one to four hops from
its constant (`tasks.Binding`): a Transformer first answers random constants, then favours those of the first lines, then
follows the assignments. The runs are those of the sweeps `binding-dense` and `binding-final`, looked at untrained and at their
snapshots, each time on the same `PROGRAMS` programs that no training has seen. `binding_phases.py` defines the phases, and when
a claim about them is shown.

Beside it: from when on more of a depth is answered right than by who always says the first line's constant (the lower end of
Wilson's interval, at this snapshot and all later ones). The second line has a constant in four programs of ten. `last` is the
constant that the last line with a constant assigns. Heads are labelled (`stackheads.analyze`, `EXAMPLES` examples, seed 0) at
one snapshot of each phase, the middle one of the snapshots in it, and at the last of all, with selectors fitted to attention
where it is systematic.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import binding_phases
import pandas as pd
import torch
from binding_phases import HOPS, PHASES, SOME, Row, better_from, counted, in_order, phases, spans, verdict
from claims import BLUE, GREEN, GREY, ORANGE, ROOT, Claim, Run, Tables, main, markdown, middle, number, plain, rate, span
from tqdm import tqdm

from stackheads import analyze
from stackheads.explanation.measuring import TO_ANSWER
from stackheads.models import ModelConfig, build, load, snapshots
from stackheads.models.hooks import analysing
from stackheads.processes import worker_pool
from stackheads.report.figures import hop_colours
from stackheads.seeds import Stream, stream
from stackheads.tables import records
from stackheads.tasks import Batch, Binding, from_config
from stackheads.types import HeadId, Status
from stackheads.validation.kept import kept, key

NAME, LABELS = "variable-binding", "variable-binding-labels"
SWEEPS = ("binding-dense", "binding-final")
MEASURED = ROOT / "runs" / NAME
PROGRAMS, EXAMPLES, SEED = 2048, 512, 0
HELD = (Status.CONFIRMED, Status.REDUNDANT)


def chosen(steps: Sequence[int], named: Sequence[str | None]) -> dict[str, int]:
    """The steps at which heads are labelled: the middle one of each phase that there is, and the last of all."""
    of = {phase: [step for step, name in zip(steps, named, strict=True) if name == phase] for phase in PHASES}
    return {phase: mine[(len(mine) - 1) // 2] for phase, mine in of.items() if mine} | {"end": steps[-1]}


def programs(task: Binding) -> Batch:
    """The programs that every snapshot is looked at on."""
    return task.sample(PROGRAMS, stream(SEED, Stream.BINDING))


@cache
def by_first_line() -> Row:
    """The counts of who always says the constant of the first line."""
    batch = programs(Binding())
    return counted(Binding(), batch, batch.tokens[:, 1])


def answers_of(model: Any, batch: Batch) -> torch.Tensor:
    """The answers at the query."""
    with analysing(model):
        parts = [model(tokens)[:, -1].argmax(dim=-1) for tokens in batch.tokens.split(1024)]
    return torch.cat(parts)


def measure(runs: list[Run], workers: int) -> Tables:
    """The answers at all snapshots of each run, and the labels at some."""
    with worker_pool(workers) as pool:
        parts = list(tqdm(pool.map(measured, runs), total=len(runs), desc="runs", disable=None))
    curves, found = ([row for part in parts for row in part[place]] for place in (0, 1))
    return {NAME: pd.DataFrame(curves).round(4), LABELS: pd.DataFrame(found).round(4)}


def measured(run: Run) -> tuple[list[Row], list[Row]]:
    """Both tables' rows of one run; what is found is kept, and belongs to the run's weights."""
    folders = snapshots(run.folder)
    belongs = key(
        {"programs": PROGRAMS, "examples": EXAMPLES}, Path(__file__), Path(binding_phases.__file__), *folders.values()
    )
    folder = MEASURED / run.sweep / run.plan.name / belongs
    curve, found = kept(folder, "curve", curve_of, run, folders), []
    for phase, step in chosen([row["step"] for row in curve], [row["phase"] for row in curve]).items():
        if step:  # of an untrained model there is nothing to label
            selected = phase == "end" and curve[-1]["phase"] == "systematic"
            found += kept(folder, f"labels-{step}-{phase}", labels, folders[step], phase, step, selected)
    return [run.names | row for row in curve], [run.names | row for row in found]


def curve_of(run: Run, folders: dict[int, Path]) -> list[Row]:
    """A row for the untrained model and for each snapshot of a run."""
    settings = run.plan.settings
    task: Any = from_config(settings["task"])
    batch = programs(task)
    untrained = build(ModelConfig(**settings["model"]), task, run.seed)
    rows = [{"step": 0, **counted(task, batch, answers_of(untrained, batch))}]
    for step, folder in folders.items():
        rows.append({"step": step, **counted(task, batch, answers_of(load(folder).model, batch))})
    return [row | {"phase": phase} for row, phase in zip(rows, phases(rows), strict=True)]


def labels(folder: Path, phase: str, step: int, selected: bool = False) -> list[Row]:
    """The labels of one snapshot that say something; in each row what ideal patterns of all recover, and answer right.

    `selected` adds what selectors recover.
    """
    analysis = analyze(folder, examples=EXAMPLES, seed=SEED, explain=False, progress=False)
    ideal: dict[int, Row] = {}
    if (analysis.labels["status"] == Status.CONFIRMED).any():
        tried = analysis.trial(examples=EXAMPLES).sufficiency.query("variant == 'ideal' and destination == 'query'")
        ideal = {row["hop"]: row for row in records(tried)}
    told = {f"{name}_{hop}": ideal.get(hop, {}).get(name) for name in ("recovered", "accuracy") for hop in HOPS}
    by_attention: dict[int, float] = {}
    if selected:
        fitted = analysis.selectors(examples=EXAMPLES, fitted_to="attention", progress=False)
        by_attention = fitted.recovered([level for level in fitted.levels if not level.endswith(TO_ANSWER)][-1])
    told |= {f"selectors_{hop}": by_attention.get(hop) for hop in HOPS}
    named = ("head", "destination", "selector", "role", "hop", "gate", "status", "share", "effect", "reason")
    rows = [{name: row[name] for name in named} for row in records(analysis.labels) if row["status"] != Status.NONE]
    return [{"phase": phase, "step": step, **row, **told} for row in rows]


def tell(tables: Tables) -> str:
    """Which phases the runs go through and when, what is answered in the middle of each, and the heads that are held there."""
    curves, than = tables[NAME], by_first_line()
    guessed = ", ".join(f"depth {hop} {share(than, f'hop_{hop}', f'asked_{hop}')}" for hop in HOPS)
    first = f"The first line's constant is right: {guessed}."
    return "\n\n".join([through(curves), each_run(curves), first, answered(curves), held(curves, tables[LABELS])])


def through(curves: pd.DataFrame) -> str:
    """How many runs go through each phase, and through all in order; the median step is that of all runs."""
    lines = []
    for sweep, mine in curves.groupby("sweep", sort=False):
        runs = [records(run) for _, run in mine.groupby("cell")]
        for phase in PHASES:
            begun = pd.Series([next(iter(spans(run)[phase]), None) for run in runs], dtype=float)
            there = int(begun.notna().sum())
            lines.append(
                [sweep, phase, rate(there, len(runs)), number(middle(begun.tolist())), span(begun), verdict(there, len(runs))]
            )
        ordered = sum(map(in_order, runs))
        lines.append([sweep, "all three in this order", rate(ordered, len(runs)), None, None, verdict(ordered, len(runs))])
    return markdown(["sweep", "phase", "runs [95 %]", "begins at step (median)", "range", "verdict"], lines)


def each_run(curves: pd.DataFrame) -> str:
    """When each run's phases begin and end, and each depth is better than the first line."""
    lines, than = [], by_first_line()
    for (sweep, seed), run in curves.groupby(["sweep", "seed"]):
        rows = records(run)
        begun = (
            f"{number(mine[0])} to {number(mine[-1])} ({len(mine)})" if mine else "not there" for mine in spans(rows).values()
        )
        better = (number(better_from(rows, hop, than)) for hop in HOPS)
        lines.append([sweep, seed, *begun, *better, share(rows[-1], "right", "programs")])
    return markdown(["sweep", "seed", *PHASES, *(f"depth {hop} better from" for hop in HOPS), "right at the end"], lines)


def answered(curves: pd.DataFrame) -> str:
    """What the answers are in the middle of each phase: the median of the runs, and the range."""
    whole = ("constant", "of the program", "first", "second", "last")
    columns = {f"depth {hop}": (f"hop_{hop}", f"asked_{hop}") for hop in HOPS} | {name: (name, "programs") for name in whole}
    columns["early of wrong"] = "wrong early", "wrong of the program"
    lines = []
    for (sweep, phase), of in in_the_middle(curves).items():
        table = pd.DataFrame(of)
        shares = (table[part] / table[total] for part, total in columns.values())
        guessed = table["by guessing"].astype(float)
        lines.append([sweep, phase, len(of), *(f"{middle_of(each)}" for each in [*shares, guessed])])
    return markdown(["sweep", "phase", "runs", *columns, "by guessing"], lines)


def in_the_middle(curves: pd.DataFrame) -> dict[tuple[str, str], list[Row]]:
    """The rows at which heads are labelled, by sweep and phase, one of each run that has the phase."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for sweep, mine in curves.groupby("sweep", sort=False):
        rows |= {(str(sweep), phase): [] for phase in (*PHASES, "end")}
        for _, run in mine.groupby("seed"):
            at = {row["step"]: row for row in records(run)}
            for phase, step in chosen(list(at), [row["phase"] for row in at.values()]).items():
                rows[str(sweep), phase].append(at[step])
    return {names: of for names, of in rows.items() if of}


def held(curves: pd.DataFrame, found: pd.DataFrame) -> str:
    """Of each phase: in how many runs a layer has a head that is held to a role, and what labels recover and answer."""
    lines = []
    for (sweep, phase), of in in_the_middle(curves).items():
        mine = found[(found["sweep"] == sweep) & (found["phase"] == phase)]
        once = mine.drop_duplicates("seed")
        told = (by_depth(once, name) for name in ("recovered", "accuracy", "selectors"))
        lines.append([sweep, phase, len(of), said(mine), *told])
    told = ("labels recover, depths 1 to 4 (%; runs)", "labels answer (%; runs)", "selectors recover (%; runs)")
    return markdown(["sweep", "phase", "runs", "held, in so many runs", *told], lines)


def by_depth(runs: pd.DataFrame, name: str) -> str:
    """The median of each depth over the runs in which it can be said, and how many these are."""
    columns = [runs[f"{name}_{hop}"].astype(float).dropna() for hop in HOPS]
    medians = ("–" if column.empty else f"{100 * column.median():.0f}" for column in columns)
    return f"{' '.join(medians)}; {max(map(len, columns))}"


def said(rows: pd.DataFrame) -> str:
    """The roles that are held, the most frequent first, with the number of runs by layer: "hop 1 @query L1 8, L2 7"."""
    seeds: dict[str, dict[str, set[int]]] = {}
    for row in records(rows[rows["status"].isin(HELD)]):
        layers = seeds.setdefault(f"{named(row)} @{row['destination']}", {})
        layers.setdefault(f"L{HeadId.parse(row['head']).layer}", set()).add(row["seed"])
    common = sorted(seeds.items(), key=lambda item: (-max(map(len, item[1].values())), item[0]))
    found = (f"{role} {', '.join(f'{layer} {len(runs)}' for layer, runs in sorted(layers.items()))}" for role, layers in common)
    return "; ".join(found) or "none"


def named(row: Row) -> str:
    """The role of a label, or its selector."""
    return row["selector"] if row["role"] is None else row["role"] + ("" if row["hop"] is None else f" {row['hop']:.0f}")


def share(row: Row, part: str, total: str) -> str:
    """A share of two counts in percent."""
    return f"{row[part] / row[total]:.0%}".replace("%", " %")


def middle_of(shares: "pd.Series[float]") -> str:
    """Median and range in percent; a dash where there are none."""
    shares = 100 * shares.dropna()
    return f"{shares.median():.0f} ({shares.min():.0f}–{shares.max():.0f})" if len(shares) else "–"


def draw(tables: Tables) -> Any:
    """For each sweep, a line for each run: accuracy by depth (dotted: by the first line), shares of answers with the phases
    below, and of the wrong answers that are constants of the program the early ones.
    """
    from matplotlib.figure import Figure

    curves, than = tables[NAME], by_first_line()
    sweeps = [str(sweep) for sweep in curves["sweep"].unique()]
    figure = Figure(figsize=(5 * len(sweeps), 7.5), layout="constrained")
    axes = figure.subplots(3, len(sweeps), sharex=True, sharey="row", squeeze=False)
    colours = hop_colours(list(HOPS))
    shades = {"random": GREY, "heuristic": ORANGE, "systematic": GREEN}
    for sweep, column in zip(sweeps, axes.T, strict=True):
        mine = curves[curves["sweep"] == sweep]
        for place, (_, run) in enumerate(mine.groupby("seed")):
            steps = run["step"].clip(lower=2)  # the untrained model, on a logarithmic axis
            style = {"linewidth": 0.9, "alpha": 0.7}
            for hop in HOPS:
                label = f"depth {hop}" if place == 0 else None
                column[0].plot(steps, run[f"hop_{hop}"] / run[f"asked_{hop}"], color=colours[hop], label=label, **style)
            for name, colour in (("constant", GREY), ("first", BLUE), ("second", GREEN), ("last", ORANGE)):
                column[1].plot(steps, run[name] / run["programs"], color=colour, label=name if place == 0 else None, **style)
            some = run[run["wrong of the program"] >= SOME]
            wrong = {
                "first or second line": (some["wrong early"] / some["wrong of the program"], BLUE),
                "by guessing": (some["by guessing"], GREY),
            }
            for name, (values, colour) in wrong.items():
                column[2].plot(steps[some.index], values, color=colour, label=name if place == 0 else None, **style)
            for phase, colour in shades.items():
                there = (run["phase"] == phase).to_numpy()
                column[1].plot(steps[there], [-0.04 - 0.025 * place] * there.sum(), "s", color=colour, markersize=2.5)
        for phase, colour in shades.items():
            column[1].plot([], [], "s", color=colour, markersize=2.5, label=f"phase: {phase}")
        for hop in HOPS:
            column[0].axhline(than[f"hop_{hop}"] / than[f"asked_{hop}"], color=colours[hop], linestyle=":", linewidth=0.8)
        for panel, low in zip(column, (-0.03, -0.27, -0.03), strict=True):
            panel.set(xscale="log", ylim=(low, 1.03))
            plain(panel)
        column[0].set_title(f"{sweep}, runs: {mine['seed'].nunique()}", fontsize=9)
        column[2].set_xlabel("training step")
    for panel, what in zip(axes[:, 0], ("right", "of all answers", "of wrong answers"), strict=True):
        panel.set_ylabel(what)
        panel.legend(frameon=False, fontsize=7)
    return figure


CLAIM = Claim(__doc__, NAME, SWEEPS, measure, tell, draw, further=(LABELS,))

if __name__ == "__main__":
    main(CLAIM)
