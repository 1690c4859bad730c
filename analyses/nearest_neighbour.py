"""Does one softmax layer act as a one-nearest-neighbour rule, do labels say which head, and where does it err?

    python analyses/nearest_neighbour.py                 # tables and figure from the CSVs in analyses/results/, seconds
    python analyses/nearest_neighbour.py --from-scratch  # trains and measures 15 models first, 20 minutes on one core
    python analyses/nearest_neighbour.py --from-scratch --only statements  # one family, beside the rows of the others

The claim of arXiv 2411.10830: a single softmax layer, trained on prompts of labelled inputs and a query, comes to behave like
the rule that answers with the label of the nearest input, as its attention grows sharper. Here inputs are codes on a ring
(`tasks.NearestNeighbour`). Three families, seeds 0, 1 and 2 (`recipes.nearest`): tokens that are pairs in one layer with one
head, theirs, and with two heads; keys and values apart in two layers. Fixed before these models were trained:

solved      `SOLVED` or more of fresh questions are answered right; the claim holds for a family if all seeds are solved.
one head    labels confirm hop 1, the nearest, for a head of the last layer at the query, and labels alone recover `KEPT` or
            more of the answer.
attention   of that head of the last layer that looks at the nearest key most: the nearest key takes the largest weight in
            `FIRST` or more of the prompts, and mean attention falls from each rank to the next.
gaps        the gap is the distance of the second nearest key less that of the nearest. Errors are more frequent at a gap of one
            than at larger ones if Wilson's intervals at 95 % are apart.
sharpness   at `STEPS` of training, in each model: attention on the nearest grows from each to the next, and errors fall.

The family "statements, longer", with seeds 3, 4 and 5, was added when two of three models of the family "statements" were not
solved: all the same, in twice as many steps. So was "vectors", with the same bars: "pairs, 1 head" in all but that codes
are embedded as points on a circle, values and the mark of the query beside them, and this is not trained – as in the source, so
that distance comes with the tokens. Tables of gaps, distances and errors are of solved models. Measured on `EXAMPLES`
fresh examples; labels and their trial on `LABELLED`. Runs are written to runs/nearest-neighbour/ and resume, and so does
measuring.
"""

import argparse
import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from claims import BLUE, GREEN, GREY, ORANGE, RECIPES, RESULTS, ROOT, beside, markdown, percent, rate
from recipes import NEAREST, nearest
from tqdm import tqdm

from stackheads import analyze
from stackheads.files import write_file
from stackheads.interventions import recorded
from stackheads.labelling.statistics import wilson
from stackheads.models import load, snapshots
from stackheads.models.hooks import analysing
from stackheads.report.figures import save_figure
from stackheads.seeds import Stream, stream
from stackheads.tables import records, role_of
from stackheads.tasks import NearestNeighbour
from stackheads.training.trainer import train
from stackheads.types import Status
from stackheads.validation.kept import keeping, kept

NAME = "nearest-neighbour"
RUNS = ROOT / "runs" / NAME
MEASURED = ROOT / "runs" / f"{NAME}-measured"
PARTS = ("", "-gaps", "-looks")
SEEDS = {family: range(3, 6) if family == "statements, longer" else range(3) for family in NEAREST}
EXAMPLES, LABELLED = 16384, 512
SOLVED, KEPT, FIRST = 0.95, 0.9, 0.95
STEPS = (250, 500, 1000, 2000)
COLOURS = (BLUE, GREEN, ORANGE, GREY, "#CC79A7")  # Okabe and Ito, as the others
WIDEST = 4
"""Gaps and distances of so many steps or more are one."""
HELD = (Status.CONFIRMED, Status.REDUNDANT)


def looked_at(model: Any, task: NearestNeighbour, examples: int = EXAMPLES) -> dict[str, torch.Tensor]:
    """Of each fresh example: `far`, the distances of its keys in ascending order; `looks`, the attention of each head of the
    last layer on their value slots, [head, example, rank]; whether it is answered `wrong`, and with what the `second` says.
    """
    batch = task.sample(examples, stream(0, Stream.NEAREST))
    far, order = task.distances(batch).sort(dim=1, stable=True)
    with analysing(model):
        clean = recorded(model, batch)
        answered = model(batch.tokens)[:, -1].argmax(dim=1)
    pattern = clean.run.pattern[-1][:, :, -1]  # [example, head, source], from the query
    looks = pattern[:, :, task.value_slots].gather(2, order[:, None].expand(-1, pattern.shape[1], -1)).transpose(0, 1)
    said = task.read(batch.tokens)[1].gather(1, order)  # [example, rank]
    wrong = answered != batch.targets[:, -1, 0]
    return {"far": far, "looks": looks, "wrong": wrong, "second": wrong & (answered == said[:, 1])}


def at_step(folder: Any) -> dict[str, Any]:
    """How often one snapshot errs, and how the head that looks at the nearest most does so."""
    loaded = load(folder)
    task: Any = loaded.task
    found = looked_at(loaded.model, task)
    on_nearest = found["looks"][:, :, 0].mean(dim=1)
    head = int(on_nearest.argmax())
    looks = found["looks"][head].double().clamp(min=1e-12)
    return {
        "head": f"L{loaded.config.layers - 1}H{head}",
        "examples": EXAMPLES,
        "errors": int(found["wrong"].sum()),
        "as the second says": int(found["second"].sum()),
        "on the nearest": on_nearest[head].item(),
        "nearest first": (looks.argmax(dim=1) == 0).double().mean().item(),
        "entropy": -(looks * looks.log()).sum(dim=1).mean().item(),
        "errors without a half": int((found["wrong"] & (looks[:, 0] < 0.5)).sum()),
        "without a half": int((looks[:, 0] < 0.5).sum()),
    }


def by_gap(found: dict[str, torch.Tensor], head: int) -> list[dict[str, Any]]:
    """A row for each distance of the nearest key and each gap: examples, errors, attention, odds of nearest to second."""
    far, looks = found["far"], found["looks"][head].double().clamp(min=1e-12)
    gap, near = (far[:, 1] - far[:, 0]).clamp(max=WIDEST), far[:, 0].clamp(max=WIDEST)
    rows = []
    for distance, between in product(range(WIDEST + 1), range(1, WIDEST + 1)):
        here = (near == distance) & (gap == between)
        rows.append(
            {
                "distance": distance,
                "gap": between,
                "examples": int(here.sum()),
                "errors": int(found["wrong"][here].sum()),
                "on the nearest": looks[here, 0].sum().item(),
                "log odds": (looks[here, 0] / looks[here, 1]).log().sum().item(),
            }
        )
    return rows


def by_place(found: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Mean attention of each head on keys of a rank, and on keys at a distance."""
    rows, far = [], found["far"]
    for head, looks in enumerate(found["looks"]):
        ranks = [("rank", rank + 1, looks[:, rank]) for rank in range(far.shape[1])]
        distances = [("distance", int(steps), looks[far == steps]) for steps in far.unique()]
        rows += [
            {"head": head, "by": by, "at": at, "keys": len(each), "attention": each.double().mean().item()}
            for by, at, each in [*ranks, *distances]
        ]
    return rows


def where_of(row: dict[str, Any]) -> str:
    """The destination of a label, and its gate."""
    return row["destination"] if row["gate"] is None else f"{row['destination']} when {row['gate']}"


def measured(family: str, seed: int) -> Any:
    """Three tables of one model: a row for each of its snapshots, for each distance and gap, and for each place looked at."""
    recipe, folder = nearest(family, seed), RUNS / f"{family.replace(' ', '-')}-{seed}"
    loaded = train(recipe.task, recipe.model, recipe.training, folder, progress=False, resume=True)
    analysis = analyze(loaded, examples=LABELLED, explain=False, progress=False)
    labels = [row for row in records(analysis.labels) if row["status"] in HELD and row["selector"] == "role"]
    named = {"family": family, "seed": seed}
    told = {
        "labels": "; ".join(f"{row['head']} @{where_of(row)} {role_of(row)}" for row in labels),
        "kept": analysis.trial(examples=LABELLED).recovered().get(1),
    }
    steps = {step: path for step, path in snapshots(folder).items() if step in (*STEPS, recipe.training.steps)}
    last = max(steps)
    runs = [{**named, "step": step, **at_step(path), **(told if step == last else {})} for step, path in steps.items()]
    found, task = looked_at(loaded.model, recipe.task), recipe.task
    assert isinstance(task, NearestNeighbour)
    head = int(found["looks"][:, :, 0].mean(dim=1).argmax())
    gaps, places = by_gap(found, head), by_place(found)
    return [runs, [{**named, **row} for row in gaps], [{**named, **row} for row in places]]


def last_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of trained models."""
    return runs[runs["step"] == runs.groupby(["family", "seed"])["step"].transform("max")]


def of_solved(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of models that are solved."""
    models = {(row["family"], row["seed"]) for row in records(last_of(runs)) if solved(row)}
    return table[[each in models for each in zip(table["family"], table["seed"], strict=True)]]


def solved(row: dict[str, Any]) -> bool:
    """Whether a model answers often enough."""
    return row["errors"] <= (1 - SOLVED) * row["examples"]


def falls(looks: pd.DataFrame, row: dict[str, Any]) -> bool:
    """Whether a head's mean attention falls from each rank to the next."""
    mine = looks[(looks["family"] == row["family"]) & (looks["seed"] == row["seed"]) & (looks["by"] == "rank")]
    shares = mine[mine["head"] == int(row["head"].split("H")[1])].sort_values("at")["attention"]
    return all(after < before for before, after in pairwise(shares))


def confirmed(row: dict[str, Any]) -> bool:
    """Whether labels say that a head of the last layer looks at the nearest, and recover the answers."""
    layer = row["head"].split("H")[0]
    said = [each for each in row["labels"].split("; ") if each.startswith(f"{layer}H") and "@query" in each]
    named = any(each.endswith(" hop 1") for each in said)
    return named and row["kept"] >= KEPT


def model_table(runs: pd.DataFrame, looks: pd.DataFrame) -> str:
    """A line for each model."""
    header = ["family", "seed", "accuracy (%)", "head", "on the nearest", "nearest first (%)", "entropy", "falls by rank"]
    lines = [
        [
            row["family"],
            row["seed"],
            percent(1 - row["errors"] / row["examples"]),
            row["head"],
            f"{row['on the nearest']:.2f}",
            percent(row["nearest first"]),
            f"{row['entropy']:.2f}",
            "yes" if falls(looks, row) else "no",
            row["labels"],
            f"{row['kept']:.2f}",
        ]
        for row in records(last_of(runs).fillna({"labels": "none", "kept": 0.0}))
    ]
    return markdown([*header, "labels", "labels keep"], lines)


def claim_table(runs: pd.DataFrame, gaps: pd.DataFrame, looks: pd.DataFrame) -> str:
    """A line for each family: in how many models each of the bars is passed."""
    header = ["family", "solved", "one head", "attention", "gaps", "sharpness"]
    lines = []
    for family, group in last_of(runs).fillna({"labels": "", "kept": 0.0}).groupby("family", sort=False):
        rows = records(group)
        passed = [
            [solved(row) for row in rows],
            [confirmed(row) for row in rows],
            [row["nearest first"] >= FIRST and falls(looks, row) for row in rows],
            [apart(gaps[(gaps["family"] == family) & (gaps["seed"] == row["seed"])]) for row in rows],
            [sharpens(runs[(runs["family"] == family) & (runs["seed"] == row["seed"])]) for row in rows],
        ]
        lines.append([family, *(f"{sum(each)} of {len(each)}" for each in passed)])
    return markdown(header, lines)


def apart(gaps: pd.DataFrame) -> bool:
    """Whether the interval of the error at gap 1 lies above that at larger ones."""
    sides = [gaps[gaps["gap"] == 1], gaps[gaps["gap"] > 1]]
    (low, _), (_, high) = (wilson(int(side["errors"].sum()), int(side["examples"].sum()), 0.95) for side in sides)
    return low > high


def sharpens(runs: pd.DataFrame) -> bool:
    """Whether attention on the nearest grows from each snapshot to the next, and errors fall."""
    rows = records(runs[runs["step"].isin(STEPS)].sort_values("step"))
    return all(
        one["on the nearest"] < two["on the nearest"] and one["errors"] > two["errors"] for one, two in pairwise(rows)
    ) and len(rows) == len(STEPS)


def gap_table(gaps: pd.DataFrame) -> str:
    """Errors, attention and odds by gap, over the seeds of a family."""
    header = ["family", "gap", "errors", "on the nearest", "odds of nearest to second"]
    lines = []
    for (family, gap), group in gaps.groupby(["family", "gap"], sort=False):
        n, errors = int(group["examples"].sum()), int(group["errors"].sum())
        odds = math.exp(group["log odds"].sum() / n)
        name = f"{gap} or more" if gap == WIDEST else gap
        lines.append([family, name, exact(errors, n), f"{group['on the nearest'].sum() / n:.2f}", f"{odds:,.0f}"])
    return markdown(header, lines)


def exact(successes: int, n: int) -> str:
    """A small share with Wilson's interval, with two decimals."""
    low, high = wilson(successes, n, 0.95)
    return f"{successes:,} of {n:,}, {100 * successes / n:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def distance_table(gaps: pd.DataFrame) -> str:
    """Odds of nearest to second, and errors, at a gap of one by the distance of the nearest key."""
    names = [str(each) for each in range(WIDEST)] + [f"{WIDEST} or more"]
    lines = []
    for family, group in gaps[gaps["gap"] == 1].groupby("family", sort=False):
        sums = group.groupby("distance")[["errors", "examples", "log odds"]].sum()
        odds, errors = (sums["log odds"] / sums["examples"]).map(math.exp), sums["errors"] / sums["examples"]
        lines.append([family, *(f"{odds[each]:.1f} / {100 * errors[each]:.2f}" for each in range(WIDEST + 1))])
    return markdown(["family", *(f"nearest at {name}" for name in names)], lines)


def cosine_table(gaps: pd.DataFrame) -> str:
    """Log odds of nearest to second at a gap of one, by how much nearer to 1 the cosine of the nearest key is on a circle: the
    same at all distances if scores are a multiple of it.
    """
    lines = []
    angles = [2 * math.pi * steps / NearestNeighbour().symbols for steps in range(WIDEST + 1)]
    for family, group in gaps[gaps["gap"] == 1].groupby("family", sort=False):
        sums = group.groupby("distance")[["examples", "log odds"]].sum()
        odds = sums["log odds"] / sums["examples"]
        falls = (math.cos(one) - math.cos(two) for one, two in pairwise(angles))
        lines.append([family, *(f"{odds[each] / fall:.1f}" for each, fall in enumerate(falls))])
    return markdown(["family", *(f"nearest at {each}" for each in range(WIDEST))], lines)


def error_table(runs: pd.DataFrame) -> str:
    """What errors are like, over the seeds of a family."""
    lines = []
    for family, group in last_of(runs).groupby("family", sort=False):
        errors, without = int(group["errors"].sum()), int(group["without a half"].sum())
        at_second, at_flat = int(group["as the second says"].sum()), int(group["errors without a half"].sum())
        told = [rate(count, errors) if errors else "–" for count in (at_second, at_flat)]
        lines.append([family, errors, *told, exact(without, int(group["examples"].sum()))])
    header = ["family", "errors", "as the second nearest says", "nearest has less than half", "all prompts with less than half"]
    return markdown(header, lines)


def step_table(runs: pd.DataFrame) -> str:
    """Attention on the nearest and errors along training."""
    lines = []
    for (family, seed), group in runs.groupby(["family", "seed"], sort=False):
        rows = records(group.sort_values("step"))
        at = {row["step"]: f"{row['on the nearest']:.2f} / {100 * row['errors'] / row['examples']:.2f}" for row in rows}
        lines.append([family, seed, *(at.get(step) for step in sorted(set(runs["step"])))])
    return markdown(["family", "seed", *(f"step {step:,}" for step in sorted(set(runs["step"])))], lines)


def draw(runs: pd.DataFrame, gaps: pd.DataFrame, looks: pd.DataFrame) -> Any:
    """Attention by distance and by rank, errors by gap, and errors by sharpness along training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (distance, rank), (gap, sharp) = figure.subplots(2, 2)
    colours = dict(zip(NEAREST, COLOURS, strict=True))
    for row in records(of_solved(last_of(runs), runs)):
        of_gap, place = (table[(table["family"] == row["family"]) & (table["seed"] == row["seed"])] for table in (gaps, looks))
        colour, place = colours[row["family"]], place[place["head"] == int(row["head"].split("H")[1])]
        for ax, by in ((distance, "distance"), (rank, "rank")):
            some = place[place["by"] == by].sort_values("at")
            ax.plot(some["at"], some["attention"], "o-", color=colour, markersize=3, linewidth=1)
        sums = of_gap.groupby("gap")[["errors", "examples"]].sum()
        gap.plot(sums.index, 100 * sums["errors"] / sums["examples"], "o-", color=colour, markersize=3, linewidth=1)
    for (family, seed), group in runs.groupby(["family", "seed"], sort=False):
        along, label = group.sort_values("step"), family if seed == SEEDS[str(family)][0] else None
        errors = 100 * along["errors"] / along["examples"]
        sharp.plot(along["on the nearest"], errors, "o-", color=colours[str(family)], markersize=3, linewidth=1, label=label)
    distance.set(xlabel="distance of the key, in steps", ylabel="mean attention on a key", yscale="log")
    rank.set(xlabel="rank of the key", ylabel="mean attention on a key", yscale="log")
    gap.set(xlabel=f"gap of second to nearest ({WIDEST}: or more)", ylabel="errors (%)", ylim=(0, None))
    sharp.set(xlabel="mean attention on the nearest, at steps of training", ylabel="errors (%)", ylim=(0, None))
    gap.xaxis.get_major_locator().set_params(integer=True)
    for ax in (distance, rank, gap, sharp):
        ax.spines[["top", "right"]].set_visible(False)
    sharp.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="train and measure first, and write the tables")
    parser.add_argument("--only", choices=NEAREST, help="with --from-scratch: this family, beside the rows of the others")
    arguments = parser.parse_args()
    paths = [RESULTS / f"{NAME}{part}.csv" for part in PARTS]
    if arguments.from_scratch:
        torch.set_num_threads(1)
        models = [(family, seed) for family in NEAREST if arguments.only in (None, family) for seed in SEEDS[family]]
        keeping(MEASURED, {"examples": EXAMPLES, "labelled": LABELLED, "steps": list(STEPS)}, Path(__file__), RECIPES)
        parts = [kept(MEASURED, f"{family}-{seed}", measured, family, seed) for family, seed in tqdm(models, disable=None)]
        for path, tables in zip(paths, zip(*parts, strict=True), strict=True):
            frame = pd.DataFrame([row for one in tables for row in one])
            frame = beside(frame, pd.read_csv(path), ("family", "seed")) if arguments.only and path.exists() else frame
            write_file(path, lambda temporary, frame=frame: frame.to_csv(temporary, index=False, float_format="%.6g"))
    runs, gaps, looks = (pd.read_csv(path) for path in paths)
    tables = (
        claim_table(runs, gaps, looks),
        model_table(runs, looks),
        gap_table(of_solved(gaps, runs)),
        distance_table(of_solved(gaps, runs)),
        cosine_table(of_solved(gaps, runs)),
        error_table(of_solved(runs, runs)),
        step_table(runs),
    )
    print("\n\n".join(tables))
    save_figure(draw(runs, gaps, looks), RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
