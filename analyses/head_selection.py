"""Which heads does a model need, by search, and are they the confirmed ones? The accuracy–K curve beside the labels.

    python analyses/head_selection.py                  # table and figure from analyses/results/head_selection.csv; seconds
    python analyses/head_selection.py --from-scratch   # search again; about ten minutes on one core

For every solved checkpoint and every K, differentiable subset pruning (`explanation/selection.py`; 300 steps, seed 0) keeps K
heads and holds the others at their positional means. Beside it stands the set of heads with a confirmed label (512 examples,
seed 0), under the same gates. Accuracy is the least over hops, on 1,024 fresh examples. Columns of the CSV: checkpoint, kind
(learned, or confirmed: the labels' set), keep, heads, accuracy.

Writes analyses/results/head_selection.csv and head_selection.png.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from stackheads.files import write_file
from stackheads.report.figures import save_figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "analyses" / "results"
CHECKPOINTS = (
    "cycle-d4-l3",
    "cycle-d8-l4",
    "chain-d4-l4",
    "chain-d8-l5",
    "cycle-d4-l3-wide",
    "cycle-d4-l4-curriculum",
    "chain-d3-l3-curriculum",
)
ENOUGH = 0.99
BLUE, ORANGE = "#0072B2", "#D55E00"


def search(name: str) -> list[dict[str, Any]]:
    """One row for each K, and one for the confirmed heads."""
    from stackheads import analyze, load
    from stackheads.explanation.selection import kept_accuracy, selection_curve
    from stackheads.types import HeadId

    checkpoint = load(ROOT / "checkpoints" / name)
    labels = analyze(checkpoint.model, checkpoint.task, progress=False, explain=False).labels
    confirmed = [HeadId.parse(head) for head in sorted(labels.query("status == 'confirmed'")["head"].unique())]
    rows = [
        {"kind": "learned", "heads": selection.heads, "accuracy": selection.accuracy}
        for selection in selection_curve(checkpoint.model, checkpoint.task).values()
    ]
    rows.append(
        {"kind": "confirmed", "heads": confirmed, "accuracy": kept_accuracy(checkpoint.model, checkpoint.task, confirmed)}
    )
    return [
        {
            "checkpoint": name,
            "kind": row["kind"],
            "keep": len(row["heads"]),
            "heads": " ".join(map(str, row["heads"])),
            "accuracy": round(min(row["accuracy"].values()), 4),
        }
        for row in rows
    ]


def print_table(table: pd.DataFrame) -> None:
    print("| checkpoint | heads | confirmed | their accuracy (%) | least K with 99 % | not confirmed | not needed |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, rows in table.groupby("checkpoint", sort=False):
        labelled = rows[rows["kind"] == "confirmed"].iloc[0]
        learned = rows[rows["kind"] == "learned"]
        good = learned[learned["accuracy"] >= ENOUGH]
        least = good.iloc[0] if len(good) else learned.iloc[-1]
        mine, theirs = set(str(labelled["heads"]).split()), set(str(least["heads"]).split())
        extra, missing = (" ".join(sorted(some)) or "none" for some in (theirs - mine, mine - theirs))
        print(
            f"| `{name}` | {learned['keep'].max()} | {labelled['keep']} | {100 * labelled['accuracy']:.1f} "
            f"| {least['keep']} | {extra} | {missing} |"
        )


def draw(table: pd.DataFrame) -> Any:
    """One panel a checkpoint: accuracy by K, and the confirmed set as a mark."""
    from matplotlib.figure import Figure

    names = list(table["checkpoint"].unique())
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(2, (len(names) + 1) // 2, sharey=True, squeeze=False).flatten()
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(panels, names, strict=False):
        rows = table[table["checkpoint"] == name]
        learned, labelled = rows[rows["kind"] == "learned"], rows[rows["kind"] == "confirmed"]
        panel.plot(learned["keep"], learned["accuracy"], "o-", color=BLUE, markersize=4, label="learned K heads")
        panel.plot(labelled["keep"], labelled["accuracy"], "D", color=ORANGE, markersize=8, mfc="none", label="confirmed heads")
        panel.axhline(ENOUGH, color="#7F7F7F", linewidth=0.8, linestyle=":")
        panel.set_title(name, fontsize=9)
        panel.set_ylim(0, 1.05)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.supxlabel("heads kept, the others at their positional mean", fontsize=10)
    figure.supylabel("accuracy of the worst hop", fontsize=10)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="search again")
    arguments = parser.parse_args()
    file = RESULTS / "head_selection.csv"
    if arguments.from_scratch:
        import torch

        torch.set_num_threads(1)
        rows = []
        for name in CHECKPOINTS:
            rows += search(name)
            print(f"{name}: searched", flush=True)
        made = pd.DataFrame(rows)
        write_file(file, lambda temporary: made.to_csv(temporary, index=False))
    table = pd.read_csv(file, keep_default_na=False)
    print_table(table)
    save_figure(draw(table), RESULTS / "head_selection.png")


if __name__ == "__main__":
    main()
