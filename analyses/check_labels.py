"""Label every shipped checkpoint with three seeds and put the labels on trial: the three tables of docs/results/checkpoints.md.

    python analyses/check_labels.py                     # prints Markdown; about five minutes on two cores
    python analyses/check_labels.py checkpoints/NAME …  # only these

Labels: accuracies are those stored in the checkpoint (4,096 fresh examples); a cell (head, destination) that is confirmed in a
role for some of the seeds 0, 1, 2 only is listed as unstable; kappa is between whole analyses (`labelling/stability.py`).
Trials: 512 fresh examples, seed 0; recovered shares (i) to (iii) at the query as in `trial/sufficiency.py`; pairs of labelled
heads that are given each other's attention as in `trial/interchange.py`, with the share of the weakest readout that is kept.
The untrained row is the architecture of `cycle-d4-l4-final`.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stackheads import Analysis, analyze, load
from stackheads.errors import StackheadsError
from stackheads.labelling.stability import kappa
from stackheads.models import build, holds_checkpoint
from stackheads.tables import records, role_of
from stackheads.trial.trial import Trial

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
SEEDS = (0, 1, 2)

Label = tuple[str, str, str]


def confirmed(analysis: Analysis) -> set[Label]:
    """(role, head, destination) of every confirmed label."""
    return {
        (str(role_of(row)), row["head"], row["destination"]) for row in records(analysis.labels) if row["status"] == "confirmed"
    }


def labels_row(name: str, accuracy: Iterable[float], analyses: list[Analysis]) -> str:
    """One line of the table of labels."""
    found = [confirmed(analysis) for analysis in analyses]
    stable, unstable = set.intersection(*found), set.union(*found) - set.intersection(*found)
    first = analyses[0]
    jaccard = "–" if first.bootstrap_jaccard is None else f"{first.bootstrap_jaccard:.2f}"
    cells = [
        f"`{name}`",
        percent(accuracy),
        listed(stable),
        listed(unstable),
        f"{kappa([each.labels for each in analyses]):.2f}",
        jaccard,
    ]
    return f"| {' | '.join(cells)} |"


def trial_row(name: str, analysis: Analysis, trial: Trial) -> str:
    """One line of the table of trials."""
    new = "–" if trial.redirected is None else f"{100 * trial.redirected:.1f}"
    if trial.unpredicted:
        new += f" (hops {', '.join(map(str, trial.unpredicted))} unpredicted)"
    rest = [row for row in records(trial.unexplained) if row["adds"] >= 0.05]
    circuit = analysis.circuit
    criteria = "–"
    if circuit.missing is None:
        criteria = f"{circuit.faithfulness['mean']:.2f} / {circuit.completeness['greedy']:.2f}"
    cells = [
        f"`{name}`",
        analysis.mechanism or "–",
        *(" ".join(f"{s:.2f}" for s in trial.recovered(variant).values()) or "–" for variant in ("ideal", "resample", "own")),
        ", ".join(f"{row['head']} {row['destination'][0]} {row['adds']:.2f}" for row in rest) or "none",
        new,
        percent((analysis.program_agreement or {}).values()) or "–",
        criteria,
    ]
    return f"| {' | '.join(cells)} |"


def interchange_row(name: str, trial: Trial) -> str:
    """One line of the table of interchanged heads."""
    cells = [f"`{name}`"]
    for same in (True, False):
        kept = [row["kept"] for row in records(trial.interchange) if row["same"] == same]
        cells += [str(len(kept)), span(kept)]
    return f"| {' | '.join(cells)} |"


def span(values: list[float]) -> str:
    """The least and the largest."""
    return f"{min(values):.2f} to {max(values):.2f}" if values else "–"


def percent(shares: Iterable[float]) -> str:
    return " ".join(f"{100 * share:.4g}" for share in shares)


def listed(labels: set[Label]) -> str:
    """Roles with their heads: `hop 1: L1H0 qv` is L1H0 at query and value."""
    places: dict[str, dict[str, str]] = {}
    for role, head, destination in sorted(labels):
        heads = places.setdefault(role, {})
        heads[head] = heads.get(head, "") + destination[0]
    return "; ".join(f"{role}: " + ", ".join(f"{h} {d}" for h, d in heads.items()) for role, heads in places.items()) or "none"


def table(header: str, lines: list[str]) -> None:
    names = header.split(", ")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    print("\n".join(lines), end="\n\n", flush=True)


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="checkpoints; without any, all that are shipped")
    arguments = parser.parse_args()
    paths = arguments.folders or sorted(filter(holds_checkpoint, CHECKPOINTS.iterdir()))
    try:
        loaded = {path: load(path) for path in paths}
    except StackheadsError as error:
        sys.exit(f"error: {error}")
    labels: list[str] = []
    trials: list[str] = []
    swaps: list[str] = []
    for path, checkpoint in loaded.items():
        analyses = [analyze(checkpoint, seed=seed, explain=seed == SEEDS[0]) for seed in SEEDS]
        labels.append(labels_row(path.name, checkpoint.metrics["accuracy"].values(), analyses))
        trial = analyses[0].trial()
        trials.append(trial_row(path.name, analyses[0], trial))
        swaps.append(interchange_row(path.name, trial))
        print(path.name, file=sys.stderr, flush=True)
    if not arguments.folders:
        final: Any = load(CHECKPOINTS / "cycle-d4-l4-final")
        untrained = [analyze(build(final.config, final.task, seed=seed), final.task, seed=seed) for seed in SEEDS]
        labels.append(labels_row("untrained", untrained[0].accuracy.values(), untrained))
        trials.append(trial_row("untrained", untrained[0], untrained[0].trial()))
    table("checkpoint, accuracy (%), confirmed for all seeds, for some only, kappa, Jaccard", labels)
    table(
        "checkpoint, mechanism, (i) ideal, (ii) resampled, (iii) own patterns, not explained, redirected (%), "
        "program agrees (%), faithfulness / incompleteness",
        trials,
    )
    table("checkpoint, pairs with the same label, they keep, pairs with different labels, they keep", swaps)


if __name__ == "__main__":
    main()
