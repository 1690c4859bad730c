"""Does a small model learn variable binding in three phases: random constants, a heuristic of early lines, dereferencing?

    python analyses/variable_binding.py                 # tables and figure from analyses/results/variable-binding*.csv, seconds
    python analyses/variable_binding.py --from-scratch  # trains and measures three models first, half an hour on one core

The claim of Wu, Geiger & Millière (arXiv 2505.20896), on programs of 16 lines whose queried variable is one to four hops from
its constant (`tasks.Binding`): a Transformer first answers random constants, then favours those of the first lines, then
follows the assignments. Three seeds of one recipe (`recipes.binding`), looked at untrained and at its snapshots, each time on
the same `PROGRAMS` programs that no training has seen. Fixed before these models were trained:

random       at least `CONSTANT` of the answers are constants, and neither of the next two holds.
heuristic    of the wrong answers more are the constant of the first or the second line than if each were drawn evenly from the
             program's other constants (the lower end of Wilson's 95 % interval is above the mean of that), at this snapshot and
             at the one before or after it, and the next does not hold.
systematic   each depth is answered right in `SOLVED` or more, at this snapshot and all later ones.

Beside it, not fixed before: from when on more of a depth is answered right than by who always says the first line's constant
(the lower end of Wilson's interval, at this snapshot and all later ones).

The second line has a constant in four programs of ten. `last` is the constant that the last line with a constant assigns. Heads
are labelled (`stackheads.analyze`, 256 examples, seed 0) at one snapshot of each phase, the middle one of the snapshots in it,
and at the last of all. Runs are written to runs/variable-binding/ and resume, and so does measuring.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from claims import BLUE, GREEN, GREY, ORANGE, RECIPES, RESULTS, ROOT, markdown, number, plain, rate
from recipes import binding
from tqdm import tqdm

from stackheads import analyze
from stackheads.files import write_file
from stackheads.labelling.statistics import wilson
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import build, load, snapshots
from stackheads.models.hooks import analysing
from stackheads.report.figures import hop_colours, save_figure
from stackheads.seeds import Stream, stream
from stackheads.tables import records
from stackheads.tasks import Batch, Binding
from stackheads.training.trainer import train
from stackheads.types import Status
from stackheads.validation.kept import keeping, kept

NAME = "variable-binding"
RUNS, MEASURED = ROOT / "runs" / NAME, ROOT / "runs" / f"{NAME}-measured"
SEEDS = 3
PROGRAMS, EXAMPLES, SEED = 2048, 256, 0
CONSTANT, SOLVED = 0.95, Thresholds().emerged_accuracy
HOPS = (1, 2, 3, 4)
PHASES = ("random", "heuristic", "systematic")
HELD = (Status.CONFIRMED, Status.REDUNDANT)

Row = dict[str, Any]


def counted(task: Binding, batch: Batch, answers: torch.Tensor) -> Row:
    """What the answers at the query are, [batch]: counts, and of the wrong ones the early share that guessing would give."""
    right, depth = batch.targets[:, -1, 0], batch.target_hop[:, -1, 0]
    values = batch.tokens[:, 1:-1:2]
    constant = values >= task.n_variables
    last = constant.long().cumsum(dim=1).argmax(dim=1, keepdim=True)  # the first place where as many stand as at the end
    early = constant.clone()
    early[:, 2:] = False
    given = constant & (values == answers[:, None])
    other = constant & (values != right[:, None])
    wrong = answers != right
    guessed = (early & other).sum(dim=1) / other.sum(dim=1).clamp(min=1)
    return {
        "programs": len(batch),
        **{f"hop_{hop}": int((~wrong & (depth == hop)).sum()) for hop in HOPS},
        **{f"asked_{hop}": int((depth == hop).sum()) for hop in HOPS},
        "right": int((~wrong).sum()),
        "constant": int((answers >= task.n_variables).sum()),
        "of the program": int(given.any(dim=1).sum()),
        "first": int(given[:, 0].sum()),
        "second": int(given[:, 1].sum()),
        "last": int(given.gather(1, last).sum()),
        "wrong": int(wrong.sum()),
        "wrong early": int((given & early).any(dim=1)[wrong].sum()),
        "wrong first": int(given[wrong, 0].sum()),
        "wrong by guessing": round(guessed[wrong].double().mean().item(), 6) if bool(wrong.any()) else None,
    }


def answers_of(model: Any, batch: Batch) -> torch.Tensor:
    """The answers at the query."""
    with analysing(model):
        parts = [model(tokens)[:, -1].argmax(dim=-1) for tokens in batch.tokens.split(1024)]
    return torch.cat(parts)


def favours_early_lines(row: Row) -> bool:
    """Whether of the wrong answers more are an early constant than by guessing."""
    return row["wrong"] > 0 and wilson(row["wrong early"], row["wrong"], 0.95)[0] > row["wrong by guessing"]


def phases(rows: Sequence[Row]) -> list[str | None]:
    """The phase of each snapshot of a run, in the order of steps; None for none of the three."""
    solved = [all(row[f"hop_{hop}"] >= SOLVED * row[f"asked_{hop}"] for hop in HOPS) for row in rows]
    systematic = [all(solved[at:]) for at in range(len(rows))]
    favoured = [favours_early_lines(row) for row in rows]
    found: list[str | None] = []
    for at, row in enumerate(rows):
        beside = any(favoured[max(at - 1, 0) : at] + favoured[at + 1 : at + 2])
        if systematic[at]:
            found.append("systematic")
        elif favoured[at] and beside:
            found.append("heuristic")
        else:
            found.append("random" if row["constant"] >= CONSTANT * row["programs"] else None)
    return found


def chosen(steps: Sequence[int], named: Sequence[str | None]) -> dict[str, int]:
    """The steps at which heads are labelled: the middle one of each phase that there is, and the last of all."""
    of = {phase: [step for step, name in zip(steps, named, strict=True) if name == phase] for phase in PHASES}
    return {phase: mine[(len(mine) - 1) // 2] for phase, mine in of.items() if mine} | {"end": steps[-1]}


def programs(task: Binding) -> Batch:
    """The programs that every snapshot is looked at on."""
    return task.sample(PROGRAMS, stream(SEED, Stream.BINDING))


def by_first_line() -> Row:
    """The counts of who always says the constant of the first line."""
    task: Any = binding().task
    batch = programs(task)
    return counted(task, batch, batch.tokens[:, 1])


def better_from(rows: Sequence[Row], hop: int, than: Row) -> int | None:
    """The step from which on a depth is answered better than so, by the lower end of the interval; None if not at the end."""
    found = None
    for row in reversed(rows):
        if wilson(row[f"hop_{hop}"], row[f"asked_{hop}"], 0.95)[0] <= than[f"hop_{hop}"] / than[f"asked_{hop}"]:
            break
        found = row["step"]
    return found


def curve(seed: int) -> list[Row]:
    """A row for each snapshot of a seed's run, which is trained unless it is there."""
    recipe = binding(seed)
    task: Any = recipe.task
    train(task, recipe.model, recipe.training, RUNS / f"seed-{seed}", progress=False, resume=True)
    batch = programs(task)
    untrained = counted(task, batch, answers_of(build(recipe.model, task, recipe.training.seed), batch))
    rows = [{"seed": seed, "step": 0, **untrained}]
    for step, folder in snapshots(RUNS / f"seed-{seed}").items():
        rows.append({"seed": seed, "step": step, **counted(task, batch, answers_of(load(folder).model, batch))})
    return [row | {"phase": phase} for row, phase in zip(rows, phases(rows), strict=True)]


def labels(seed: int, phase: str, step: int) -> list[Row]:
    """The labels of one snapshot that say something; in each row what ideal patterns of all recover, and answer right."""
    loaded = load(snapshots(RUNS / f"seed-{seed}")[step])
    analysis = analyze(loaded, examples=EXAMPLES, seed=SEED, explain=False, progress=False)
    ideal: dict[int, Row] = {}
    if (analysis.labels["status"] == Status.CONFIRMED).any():
        tried = analysis.trial(examples=EXAMPLES).sufficiency.query("variant == 'ideal' and destination == 'query'")
        ideal = {row["hop"]: row for row in records(tried)}
    told = {f"{name}_{hop}": ideal.get(hop, {}).get(name) for name in ("recovered", "accuracy") for hop in HOPS}
    named = ("head", "destination", "selector", "role", "hop", "gate", "status", "share", "effect", "reason")
    rows = [{name: row[name] for name in named} for row in records(analysis.labels) if row["status"] != Status.NONE]
    return [{"seed": seed, "phase": phase, "step": step, **row, **told} for row in rows]


def tell(curves: pd.DataFrame, found: pd.DataFrame) -> str:
    """When phases begin and end, what is answered in the middle of each, and the heads that are held there."""
    begins, answered, heads, than = [], [], [], by_first_line()
    for seed, run in curves.groupby("seed"):
        rows = records(run)
        steps, named = [row["step"] for row in rows], [row["phase"] for row in rows]
        of = {phase: [step for step, name in zip(steps, named, strict=True) if name == phase] for phase in PHASES}
        spans = [f"{number(mine[0])} to {number(mine[-1])} ({len(mine)})" if mine else "not there" for mine in of.values()]
        better = (number(better_from(rows, hop, than)) for hop in HOPS)
        begins.append([seed, *spans, *better, f"{rows[-1]['right'] / rows[-1]['programs']:.1%}"])
        for phase, step in chosen(steps, named).items():
            row = rows[steps.index(step)]
            shares = (
                f"{row[name] / row['programs']:.0%}" for name in ("constant", "of the program", "first", "second", "last")
            )
            hops = (f"{row[f'hop_{hop}'] / row[f'asked_{hop}']:.0%}" for hop in HOPS)
            early = rate(row["wrong early"], row["wrong"]) if row["wrong"] else "–"
            guess = f"{row['wrong by guessing']:.0%}" if row["wrong"] else "–"
            answered.append([seed, phase, number(step), *hops, *shares, early, guess])
            mine = found[(found["seed"] == seed) & (found["step"] == step)]
            told = [
                " ".join("–" if pd.isna(share) else f"{share:.2f}" for share in mine[[f"{name}_{hop}" for hop in HOPS]].iloc[0])
                for name in ("recovered", "accuracy")
            ]
            heads.append([seed, phase, number(step), said(mine), *told])
    at_steps = [
        "seed",
        "phase",
        "step",
        *(f"hop {hop}" for hop in HOPS),
        "constant",
        "of the program",
        "first",
        "second",
        "last",
    ]
    text = [
        markdown(["seed", *PHASES, *(f"depth {hop} better from" for hop in HOPS), "right at the end"], begins),
        "the first line's constant is right: "
        + ", ".join(f"depth {hop} {than[f'hop_{hop}'] / than[f'asked_{hop}']:.0%}" for hop in HOPS),
        markdown([*at_steps, "early of wrong", "by guessing"], answered),
        markdown(["seed", "phase", "step", "confirmed and redundant", "they recover, depths 1 to 4", "they answer"], heads),
    ]
    return "\n\n".join(text).replace("%", " %").replace("  %", " %")


def said(rows: pd.DataFrame) -> str:
    """The labels that are held, by role."""
    roles: dict[str, list[str]] = {}
    for row in records(rows[rows["status"].isin(HELD)]):
        role = row["selector"] if row["role"] is None else row["role"] + ("" if row["hop"] is None else f" {row['hop']:.0f}")
        gate = "" if row["gate"] is None else f" ({row['gate']})"
        roles.setdefault(role, []).append(f"{row['head']} {row['destination'][0]}{gate}")
    return "; ".join(f"{role}: {', '.join(mine)}" for role, mine in sorted(roles.items())) or "none"


def draw(curves: pd.DataFrame) -> Any:
    """For each seed: accuracy by depth (dotted: by the first line), shares of answers, and early ones of the wrong."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots(3, SEEDS, sharex=True, sharey="row")
    colours, than = hop_colours(list(HOPS)), by_first_line()
    shades = {"random": GREY, "heuristic": ORANGE, "systematic": GREEN}
    for (seed, run), column in zip(curves.groupby("seed"), axes.T, strict=True):
        steps = run["step"].clip(lower=5)  # the untrained model, on a logarithmic axis
        for hop in HOPS:
            column[0].plot(steps, run[f"hop_{hop}"] / run[f"asked_{hop}"], color=colours[hop], label=f"depth {hop}")
            column[0].axhline(than[f"hop_{hop}"] / than[f"asked_{hop}"], color=colours[hop], linestyle=":", linewidth=0.8)
        for name, colour in (("constant", GREY), ("right", "black"), ("first", BLUE), ("second", GREEN), ("last", ORANGE)):
            column[1].plot(steps, run[name] / run["programs"], color=colour, label=name)
        of_wrong = run["wrong early"] / run["wrong"]
        bounds = [wilson(row["wrong early"], row["wrong"], 0.95) if row["wrong"] else (None, None) for row in records(run)]
        column[2].plot(steps, of_wrong, color=BLUE, label="first or second line")
        low, high = (pd.Series([pair[side] for pair in bounds], dtype=float) for side in (0, 1))
        column[2].fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
        column[2].plot(steps, run["wrong by guessing"], color=GREY, linestyle=":", label="by guessing")
        for panel in column:
            panel.set(xscale="log", ylim=(-0.03, 1.03))
            for phase, colour in shades.items():
                held = (run["phase"] == phase).to_numpy()
                panel.plot(steps[held], [-0.01] * held.sum(), "s", color=colour, markersize=5)
            plain(panel)
        column[0].set_title(f"seed {seed}", fontsize=9)
        column[2].set_xlabel("training step")
    for panel, what in zip(axes[:, 0], ("right", "of all answers", "of wrong answers"), strict=True):
        panel.set_ylabel(what)
        panel.legend(frameon=False, fontsize=7)
    return figure


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="train and measure first, and write the tables")
    arguments = parser.parse_args()
    paths = {part: RESULTS / f"{NAME}{part}.csv" for part in ("", "-labels")}
    if arguments.from_scratch:
        torch.set_num_threads(1)
        keeping(MEASURED, {"programs": PROGRAMS, "examples": EXAMPLES}, Path(__file__), RECIPES)
        curves, found = [], []
        for seed in tqdm(range(SEEDS), disable=None):
            mine: Any = kept(MEASURED, f"curve-{seed}", curve, seed)
            curves += mine
            for phase, step in chosen([row["step"] for row in mine], [row["phase"] for row in mine]).items():
                if step:  # of an untrained model there is nothing to label
                    found += kept(MEASURED, f"labels-{seed}-{step}", labels, seed, phase, step)
        for path, rows in zip(paths.values(), (curves, found), strict=True):
            frame = pd.DataFrame(rows)
            write_file(path, lambda temporary, frame=frame: frame.round(4).to_csv(temporary, index=False))
    curves, found = (pd.read_csv(path) for path in paths.values())
    print(tell(curves.astype(object).where(curves.notna(), None), found.astype(object).where(found.notna(), None)))
    save_figure(draw(curves), Path(RESULTS / f"{NAME}.png"))


if __name__ == "__main__":
    main()
