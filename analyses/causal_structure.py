"""Do heads of the first layer learn the latent graph of a sequence, and is it read off their labels and selectors?

    python analyses/causal_structure.py                 # table and figure from analyses/results/causal-structure*.csv, seconds
    python analyses/causal_structure.py --from-scratch  # trains and measures 18 models first, half an hour on one core
    python analyses/causal_structure.py --from-scratch --only chain  # one family, beside the rows of the others

The claim of Nichani, Damian & Lee (arXiv 2402.14735): trained on sequences in which each symbol follows from that of its
parents in a latent graph, the first attention layer looks from each position at its parents. Chains, trees, DAGs of in-degree 1
and 2, three seeds each, a seed being that of the graph and of training (`recipes.causal`). Two families were added when none
of in-degree 2 had been solved: "longer", all the same in three times as many steps, and, when that was not solved either,
"dense", all the same with the question asked at every position, of the cases before. The task names no parent, so that labels
and selectors can only say places; three readings of the edges (child, parent), of the first layer at all positions but the
query:

attention   the mean attention of some head is `READ` or more, the bar by which a role must lead for a label;
labels      a row that is confirmed or redundant names the place, at the places of its gate or at all;
selectors   all selectors of places of a head, fitted to attention, give a source `READ` or more, and those among them that are
            confirmed or redundant raise it there above the mean of what is seen.

A position itself is no source. Precision and recall are against the task's own graph, and for comparison against that of the
next seed (chains have but one graph). A model has learned the graph in the sense of the claim if it answers `SOLVED` or more of
the questions, and precision and recall of the reading by attention are `LEARNED` or more. Runs are written to
runs/causal-structure/ and resume, and so does measuring.
"""

import argparse
import math
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from claims import BLUE, GREY, ORANGE, RECIPES, RESULTS, ROOT, beside, markdown, rate
from recipes import causal
from tqdm import tqdm

from stackheads import Analysis, analyze
from stackheads.files import write_file
from stackheads.interventions import recorded
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import Checkpoint
from stackheads.models.hooks import analysing
from stackheads.report.figures import save_figure
from stackheads.tables import records, role_of
from stackheads.tasks import CausalGraph, labelling_batch
from stackheads.training.trainer import train
from stackheads.types import Gate, Role, Status
from stackheads.validation.kept import keeping, kept

NAME = "causal-structure"
RUNS = ROOT / "runs" / NAME
MEASURED = ROOT / "runs" / f"{NAME}-measured"
FAMILIES: dict[str, dict[str, Any]] = {
    "chain": {"graph": "chain"},
    "tree": {"graph": "tree"},
    "DAG, in-degree 1": {"graph": "dag"},
    "DAG, in-degree 2": {"graph": "dag", "in_degree": 2},
    "DAG, in-degree 2, longer": {"graph": "dag", "in_degree": 2, "steps": 6000},
    "DAG, in-degree 2, dense": {"graph": "dag", "in_degree": 2, "supervision": "dense"},
}
"""What `recipes.causal` is told of a family."""
SEEDS = 3
EXAMPLES = 512
READ = Thresholds().pattern_margin
SOLVED, LEARNED = 0.95, 0.9
HELD = (Status.CONFIRMED, Status.REDUNDANT)
READINGS = ("attention", "labels", "selectors")

Edge = tuple[int, int]


def trained(family: str, seed: int) -> Checkpoint:
    """The model of one family and seed, trained unless its run is there."""
    recipe, folder = causal(**FAMILIES[family], seed=seed), RUNS / f"{family.replace(' ', '-')}-{seed}"
    return train(recipe.task, recipe.model, recipe.training, folder, progress=False, resume=True)


def source(role: Role | None, place: int) -> int | None:
    """The position that a role of places names from a place; None for other roles, and where it names none."""
    at = {"previous": place - 1, "start": 0, "key": role.hop if role else None}.get(role.name) if role else None
    named = at is not None and 0 <= at < place and (role != Role("key", at) or at < place - 1)
    return at if named else None


def attention(model: Any, task: CausalGraph) -> torch.Tensor:
    """Mean attention of the heads of the first layer, [head, child, source], at all positions but the query."""
    with analysing(model):
        clean = recorded(model, labelling_batch(task, EXAMPLES, 0))
    return clean.run.pattern[0].mean(dim=0)[:, :-1, :-1]


def read_off_labels(analysis: Analysis, places: int) -> set[Edge]:
    """The edges that labels say."""
    found: set[Edge] = set()
    for row in records(analysis.labels):
        if row["layer"] == 0 and row["destination"] == "value" and row["status"] in HELD:
            gate = None if row["gate"] is None else Gate.parse(row["gate"])
            own = gate.values if gate is not None and gate.name == "own place" else range(places)
            found |= {(place, at) for place in own if (at := source(role_of(row), place)) is not None}
    return found


def scores(rows: pd.DataFrame, numbers: pd.DataFrame, places: int) -> torch.Tensor:
    """What selectors of places add to the score of each source at each place, [place, source]."""
    total = torch.zeros(places, places)
    for row in records(rows):
        name = row["what"] if row["gate"] is None else f"{row['what']} by {row['gate']}"
        mine = records(numbers[numbers["what"] == name])
        for place, other in product(range(places), range(places)):
            if row["selector"] == "position":
                at = other if row["what"].startswith("place") else place - other
                total[place, other] += sum(each["weight"] for each in mine if each["at"] == at)
                continue
            role = role_of(row)
            if other == (place if role == Role("self") else source(role, place)):
                gated = [each["weight"] for each in mine if each["value"] == place]
                total[place, other] += row["weight"] if row["gate"] is None else sum(gated)
    return total


def read_off_selectors(table: pd.DataFrame, weights: pd.DataFrame, places: int) -> set[Edge]:
    """The edges that selectors say."""
    found: set[Edge] = set()
    seen = torch.ones(places, places).tril()
    for head in sorted(set(table["head"])):
        at_value = (table["head"] == head) & (table["destination"] == "value")
        by_place = table["role"].isin(["previous", "start", "key", "self"]) & (table["selector"] == "role")
        rows = table[at_value & (by_place | (table["selector"] == "position"))]
        rows = rows[rows["gate"].isna() | (rows["gate"] == "own place")]
        numbers = weights[(weights["head"] == head) & (weights["destination"] == "value")]
        told = scores(rows, numbers, places).masked_fill(seen == 0, -torch.inf).softmax(dim=1)
        held = scores(rows[rows["status"].isin(HELD)], numbers, places)
        raised = held > (held * seen).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True)
        found |= {(place, other) for place, other in ((told >= READ) & raised & (seen > 0)).nonzero().tolist() if other < place}
    return found


def measured(family: str, seed: int) -> Any:
    """Two tables of one model: a row for each reading, and a row for each pair of places that is an edge or read as one."""
    loaded = trained(family, seed)
    task: Any = loaded.task
    analysis = analyze(loaded, examples=EXAMPLES, explain=False, progress=False)
    looks, places = attention(loaded.model, task), task.context - 1
    by_selectors, kept_by_selectors = set[Edge](), None
    if analysis.readouts["open"].any():  # of a model that answers nothing there is nothing to explain
        selected = analysis.selectors(examples=EXAMPLES, fitted_to="attention", progress=False)
        first, kept_by_selectors = selected.table[selected.table["layer"] == 0], selected.worst
        by_selectors = read_off_selectors(first, selected.weights, places)
    found = {
        "attention": {(child, at) for _, child, at in (looks >= READ).nonzero().tolist() if at < child},
        "labels": read_off_labels(analysis, places),
        "selectors": by_selectors,
    }
    other = task.model_copy(update={"graph_seed": (seed + 1) % SEEDS}).edges
    named = {"graph": family, "seed": seed}
    shares = analysis.trial(examples=EXAMPLES).recovered()
    told = {"accuracy": loaded.metrics["accuracy"]["1"], "by labels": shares.get(1), "by selectors": kept_by_selectors}
    rows = [
        {
            **named,
            **told,
            "edges": len(task.edges),
            "reading": reading,
            "read": len(edges),
            "right": len(edges & task.edges),
            "at roots": sum(not task.parents[child] for child, _ in edges),
            "right by another graph": None if family == "chain" else len(edges & other),
        }
        for reading, edges in found.items()
    ]
    pairs = sorted(set().union(task.edges, *found.values()))
    at_each = [
        {
            **named,
            "child": child,
            "parent": at,
            "true": int((child, at) in task.edges),
            **{f"L0H{head}": round(float(share), 3) for head, share in enumerate(looks[:, child, at])},
            **{reading: int((child, at) in edges) for reading, edges in found.items()},
        }
        for child, at in pairs
    ]
    return [rows, at_each]


def precision(row: dict[str, Any]) -> float:
    """Of the edges that are read, the share that there are; nan for none."""
    return row["right"] / row["read"] if row["read"] else math.nan


def learned(row: dict[str, Any]) -> bool:
    """Whether a model has learned the graph, by the reading of this row."""
    return row["accuracy"] >= SOLVED and precision(row) >= LEARNED and row["right"] >= LEARNED * row["edges"]


def table(rows: pd.DataFrame) -> str:
    """A line for each model, and one for each reading over all models of a family."""
    lines = []
    for (family, seed), group in rows.groupby(["graph", "seed"], sort=False):
        first, *_ = records(group)
        of = {row["reading"]: f"{row['right']} of {row['read']}" for row in records(group)}
        shares = ("–" if pd.isna(first[name]) else f"{first[name]:.2f}" for name in ("by labels", "by selectors"))
        lines.append([family, seed, f"{first['accuracy']:.1%}", first["edges"], *(of[each] for each in READINGS), *shares])
    header = [
        "graph",
        "seed",
        "accuracy",
        "edges",
        *(f"{each}: right of read" for each in READINGS),
        "labels keep",
        "selectors keep",
    ]
    pooled = []
    for (family, reading), group in rows.groupby(["graph", "reading"], sort=False):
        read, right, edges, roots = (int(group[name].sum()) for name in ("read", "right", "edges", "at roots"))
        wrong = "–" if family == "chain" or not read else f"{group['right by another graph'].sum() / read:.0%}"
        had = sum(map(learned, records(group)))
        pooled.append(
            [family, reading, rate(right, read) if read else "–", rate(right, edges), roots, wrong, f"{had} of {len(group)}"]
        )
    names = ["graph", "reading", "precision", "recall", "read at roots", "precision by another graph", "models that have it"]
    return f"{markdown(header, lines)}\n\n{markdown(names, pooled)}".replace("%", " %").replace("  %", " %")


def head_table(edges: pd.DataFrame) -> str:
    """What each of two heads looks at: edges, both parents of a place, and what is no edge, as far as it is just before."""
    lines = []
    for (family, seed), group in edges[edges["L0H1"].notna()].groupby(["graph", "seed"], sort=False):
        true, before = group["true"] == 1, group["child"] - group["parent"] == 1
        for head in ("L0H0", "L0H1"):
            looks = group[head] >= READ
            whole = looks[true].groupby(group.loc[true, "child"]).all()
            right = f"{(looks & true).sum()} of {true.sum()}"
            before_of = f"{(looks & ~true & before).sum()} of {(looks & ~true).sum()}"
            lines.append([family, seed, head, right, f"{whole.sum()} of {len(whole)}", before_of])
    return markdown(["graph", "seed", "head", "edges", "places with both parents", "no edge: the place before"], lines)


def label_table(edges: pd.DataFrame) -> str:
    """Of the looks that labels name: how many are edges, and how many at the place just before."""
    lines = []
    for family, group in edges[edges["labels"] == 1].groupby("graph", sort=False):
        lines.append([family, len(group), (group["true"] == 1).sum(), (group["child"] - group["parent"] == 1).sum()])
    return markdown(["graph", "looks that labels name", "edges", "at the place before"], lines)


def draw(rows: pd.DataFrame) -> Any:
    """Child by parent: attention of the head that looks there most, the true edges, and those that are read."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 16.5), layout="constrained")
    axes = figure.subplots(len(FAMILIES), SEEDS, sharex=True, sharey=True)
    for (number, family), seed in product(enumerate(FAMILIES), range(SEEDS)):
        ax, mine = axes[number][seed], rows[(rows["graph"] == family) & (rows["seed"] == seed)]
        true, labels, selectors = (mine[mine[name] == 1] for name in ("true", "labels", "selectors"))
        most = mine[[name for name in mine if name.startswith("L0H")]].max(axis=1)
        ax.scatter(
            mine["parent"], mine["child"], s=40 * most, marker="s", color=GREY, alpha=0.5, linewidths=0, label="attention"
        )
        ax.scatter(true["parent"], true["child"], s=6, color="black", label="edge of the graph")
        ax.scatter(
            selectors["parent"], selectors["child"], s=75, marker="s", facecolors="none", edgecolors=BLUE, label="by selectors"
        )
        ax.scatter(labels["parent"], labels["child"], s=45, facecolors="none", edgecolors=ORANGE, label="by labels")
        ax.set_title(f"{family}, seed {seed}", fontsize=9)
        for axis in (ax.xaxis, ax.yaxis):
            axis.get_major_locator().set_params(integer=True)
    axes[0][0].invert_yaxis()  # all share it
    for ax in axes[:, 0]:
        ax.set_ylabel("looks from place")
    for ax in axes[-1]:
        ax.set_xlabel("at place")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="train and measure first, and write the tables")
    parser.add_argument("--only", choices=FAMILIES, help="with --from-scratch: this family, beside the rows of the others")
    arguments = parser.parse_args()
    paths = {part: Path(RESULTS / f"{NAME}{part}.csv") for part in ("", "-edges")}
    if arguments.from_scratch:
        torch.set_num_threads(1)
        models = [(family, seed) for family in FAMILIES if arguments.only in (None, family) for seed in range(SEEDS)]
        keeping(MEASURED, {"examples": EXAMPLES, "read": READ}, Path(__file__), RECIPES)
        parts = [kept(MEASURED, f"{family}-{seed}", measured, family, seed) for family, seed in tqdm(models, disable=None)]
        for path, tables in zip(paths.values(), zip(*parts, strict=True), strict=True):
            frame = pd.DataFrame([row for one in tables for row in one])
            frame = beside(frame, pd.read_csv(path), ("graph", "seed")) if arguments.only and path.exists() else frame
            write_file(path, lambda temporary, frame=frame: frame.round(4).to_csv(temporary, index=False))
    edges = pd.read_csv(paths["-edges"])
    print(f"{table(pd.read_csv(paths['']))}\n\n{head_table(edges)}\n\n{label_table(edges)}")
    save_figure(draw(edges), RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
