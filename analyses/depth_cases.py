"""Which depth do memory, reasoning, templates and templates in context need, and what do the heads do there?

    python analyses/depth_cases.py                 # tables and figure from analyses/results/depth-cases*.csv, seconds
    python analyses/depth_cases.py --from-scratch  # trains 36 models and analyses those that work first, 15 minutes on one core

The claim of Chen & Zou (arXiv 2404.01601): one attention layer can memorise, reasoning and generalisation to new strings of a
template take two, templates in context three. Each case in one to three layers, three seeds each; the recipe is the same for
all (`recipes.case_of_depth`), without MLPs as in their theory. A model works if it answers `SOLVED` or more: of the strings it
was shown in memory, of fresh examples in reasoning, and with templates where the last string is one that stood in no example it
was trained on. A depth works if all seeds do. Models of the smallest depth that works are analysed: their labels, their
selectors fitted to the answer, and the share of the answer that each recover. Runs are written to runs/depth-cases/ and resume,
and so does measuring.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from claims import BLUE, GREY, RECIPES, RESULTS, ROOT, markdown, percent
from recipes import case_of_depth
from tqdm import tqdm

from stackheads import analyze
from stackheads.files import write_file
from stackheads.models import Checkpoint
from stackheads.report.figures import save_figure
from stackheads.tables import records
from stackheads.tasks.depth_cases import Case
from stackheads.training.trainer import FRESH_EXAMPLES, accuracy, train
from stackheads.types import Status
from stackheads.validation.kept import Rows, keeping, kept

NAME = "depth-cases"
RUNS = ROOT / "runs" / NAME
MEASURED = ROOT / "runs" / f"{NAME}-measured"
CASES: tuple[Case, ...] = get_args(Case)
CLAIMED = dict(zip(CASES, (1, 2, 2, 3), strict=True))
DEPTHS, SEEDS = (1, 2, 3), 3
EXAMPLES = 512
SOLVED, MATTERS = 0.95, 0.05


def trained(case: Case, layers: int, seed: int) -> Checkpoint:
    """The model of one case, depth and seed, trained unless its run is there."""
    recipe = case_of_depth(case, layers, seed)
    return train(recipe.task, recipe.model, recipe.training, RUNS / f"{case}-l{layers}-{seed}", progress=False, resume=True)


def answered(case: Case, layers: int, seed: int) -> Rows:
    """The row of one model: what it answers, of `unseen` strings too where there are some."""
    model = trained(case, layers, seed)
    task: Any = model.task
    seen, unseen = model.metrics["accuracy"]["1"], None
    if "template" in case:
        unseen = accuracy(model.model, task.model_copy(update={"part": "unseen"}), FRESH_EXAMPLES)[1]
    judged = seen if unseen is None else unseen
    return [
        {
            "case": case,
            "layers": layers,
            "seed": seed,
            "chance": task.chance(1),
            "seen": seen,
            "unseen": unseen,
            "works": int(judged >= SOLVED),
        }
    ]


def smallest(rows: pd.DataFrame, case: str) -> int | None:
    """The smallest depth of which all seeds work; None if there is none."""
    mine = rows[rows["case"] == case].groupby("layers")["works"].min()
    return min((int(layers) for layers, works in mine.items() if works), default=None)  # type: ignore[arg-type]


def looked_at(case: Case, layers: int, seed: int) -> Any:
    """Two tables of one model with what each recovers: its labels that are not `none`, and its selectors."""
    analysis = analyze(trained(case, layers, seed), examples=EXAMPLES, explain=False, progress=False)
    keep = analysis.trial(examples=EXAMPLES).recovered().get(1)
    selected = analysis.selectors(examples=EXAMPLES, progress=False)
    named = {"case": case, "layers": layers, "seed": seed}
    found = [row for row in records(analysis.labels) if row["status"] != Status.NONE]
    columns = ("head", "destination", "role", "hop", "gate", "status", "effect")
    labels = [{**named, "keep": keep, **{name: row[name] for name in columns}} for row in found]
    columns = ("head", "destination", "what", "gate", "status", "effect", "write")
    selectors = [{**named, "keep": selected.worst, **{name: row[name] for name in columns}} for row in records(selected.table)]
    return [labels, selectors]


def table(rows: pd.DataFrame) -> str:
    """A line for each case and depth, the accuracies of the three seeds in it."""
    lines = []
    for (case, layers), group in rows.groupby(["case", "layers"], sort=False):
        seen, unseen = (", ".join(map(percent, group[name])) for name in ("seen", "unseen"))
        lines.append(
            [case, layers, seen, unseen if "template" in str(case) else "–", f"{group['works'].sum()} of {len(group)}"]
        )
    said = [[case, CLAIMED[case], smallest(rows, case) or "none of them"] for case in CASES]
    depths = markdown(["case", "layers that the source says", "smallest depth of which all seeds work"], said)
    return f"{depths}\n\n{markdown(['case', 'layers', 'seen (%)', 'unseen (%)', 'work'], lines)}"


def table_of_heads(rows: pd.DataFrame, selectors: pd.DataFrame) -> str:
    """A line for each model that was analysed: its confirmed and redundant labels, what they keep, and what selectors do."""
    lines = []
    for (case, layers, seed), group in rows.groupby(["case", "layers", "seed"], sort=False):
        told: dict[str, list[str]] = {}
        for row in records(group[group["status"].isin([Status.CONFIRMED, Status.REDUNDANT])]):
            hop = "" if pd.isna(row["hop"]) else f" {int(row['hop'])}"
            gate = "" if pd.isna(row["gate"]) else f" when {row['gate']}"
            told.setdefault(f"{row['role']}{hop}{gate}", []).append(f"{row['head']} {row['destination'][0]}")
        said = "; ".join(f"{role}: {', '.join(heads)}" for role, heads in sorted(told.items())) or "none"
        theirs = selectors[(selectors["case"] == case) & (selectors["seed"] == seed)]
        keeps = [f"{each['keep'].iloc[0]:.2f}" if len(each) else "–" for each in (group, theirs)]
        lines.append([case, layers, seed, said, *keeps])
    return markdown(["case", "layers", "seed", "confirmed and redundant", "labels keep", "selectors keep"], lines)


def table_of_selectors(rows: pd.DataFrame) -> str:
    """Template's selectors that matter, `MATTERS` or more of the answer: a line for each head and destination of each model."""
    lines = []
    matter = rows[(rows["case"] == "template") & (rows["effect"] >= MATTERS)]
    for (seed, head, destination), group in matter.groupby(["seed", "head", "destination"]):
        gates = [f" by {gate}" if isinstance(gate, str) else "" for gate in group["gate"]]
        said = [f"{row['what']}{gate} {row['effect']:.2f}" for row, gate in zip(records(group), gates, strict=True)]
        lines.append([seed, f"{head} {destination}", ", ".join(said)])
    return markdown(["seed", "head", "selectors, and what goes without each"], lines)


def draw(rows: pd.DataFrame) -> Any:
    """Accuracy against depth, a panel for each case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for case, ax in zip(CASES, figure.subplots(1, len(CASES), sharey=True), strict=True):
        mine = rows[rows["case"] == case]
        ax.axhline(100 * mine["chance"].iloc[0], color=GREY, linestyle=":", linewidth=1, label="chance")
        ax.axhline(100 * SOLVED, color=GREY, linewidth=0.8, label="bar")
        ax.axvline(CLAIMED[case], color=GREY, alpha=0.25, linewidth=8, label="depth that the source says")
        ax.scatter(mine["layers"] - 0.05, 100 * mine["seen"], s=22, facecolors="none", edgecolors=BLUE, label="seen")
        ax.scatter(mine["layers"] + 0.05, 100 * mine["unseen"], s=22, color=BLUE, label="unseen strings")
        ax.set_title(case, fontsize=9)
        ax.set_xlabel("layers")
        ax.set_xticks(DEPTHS)
        ax.set_xlim(0.5, 3.5)
        ax.set_ylim(0, 104)
    figure.axes[0].set_ylabel("right answers (%)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="train and measure first, and write the tables")
    arguments = parser.parse_args()
    paths = {part: Path(RESULTS / f"{NAME}{part}.csv") for part in ("", "-labels", "-selectors")}
    if arguments.from_scratch:
        torch.set_num_threads(1)
        keeping(MEASURED, {"examples": EXAMPLES, "solved": SOLVED}, Path(__file__), RECIPES)
        models = list(product(CASES, DEPTHS, range(SEEDS)))
        parts = [kept(MEASURED, "-".join(map(str, each)), answered, *each) for each in tqdm(models, disable=None)]
        rows = pd.DataFrame([row for one in parts for row in one])
        least = {case: layers for case in CASES if (layers := smallest(rows, case)) is not None}
        looked = [(case, layers, seed) for case, layers in least.items() for seed in range(SEEDS)]
        both = [kept(MEASURED, f"heads-{case}-{seed}", looked_at, case, layers, seed) for case, layers, seed in tqdm(looked)]
        frames = [pd.DataFrame([row for one in tables for row in one]) for tables in zip(*both, strict=True)]
        for path, frame in zip(paths.values(), (rows, *frames), strict=True):
            write_file(path, lambda temporary, frame=frame: frame.round(4).to_csv(temporary, index=False))
    rows, labels, selectors = (pd.read_csv(path) for path in paths.values())
    print(f"{table(rows)}\n\n{table_of_heads(labels, selectors)}\n\n{table_of_selectors(selectors)}")
    save_figure(draw(rows), RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
