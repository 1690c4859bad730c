"""Label every shipped checkpoint with three seeds: which heads are confirmed each time, and what changes between seeds.

    python analyses/02_check_labels.py          # prints a Markdown table; about one minute on two cores

Accuracies are those stored in the checkpoint (4,096 fresh examples). A cell (head, destination) that is confirmed in a role
for some seeds only is listed as unstable. The untrained row is the architecture of `cycle-d4-l4-final`, seeds 0, 1, 2.
"""

from pathlib import Path
from typing import Any

from stackheads import Analysis, analyze, load
from stackheads.analysis.records import records
from stackheads.models import build

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
SEEDS = (0, 1, 2)

Label = tuple[str, str, str]


def confirmed(analysis: Analysis) -> set[Label]:
    """(role, head, destination) of every confirmed label."""
    return {
        (row["role"] if row["hop"] is None else f"hop {row['hop']}", row["head"], row["destination"])
        for row in records(analysis.labels)
        if row["status"] == "confirmed"
    }


def row(name: str, accuracy: dict[str, float], analyses: list[Analysis]) -> str:
    """One line of the table."""
    found = [confirmed(analysis) for analysis in analyses]
    stable, unstable = set.intersection(*found), set.union(*found) - set.intersection(*found)
    shares = " ".join(f"{100 * share:.4g}" for share in accuracy.values())
    first = analyses[0]
    agreement = " ".join(f"{100 * share:.3g}" for share in (first.program_agreement or {}).values())
    return f"| `{name}` | {shares} | {listed(stable)} | {listed(unstable)} | {first.mechanism} | {agreement or '–'} |"


def listed(labels: set[Label]) -> str:
    """Roles with their heads: `hop 1: L1H0 qv` is L1H0 at query and value."""
    places: dict[str, dict[str, str]] = {}
    for role, head, destination in sorted(labels):
        heads = places.setdefault(role, {})
        heads[head] = heads.get(head, "") + destination[0]
    return "; ".join(f"{role}: " + ", ".join(f"{h} {d}" for h, d in heads.items()) for role, heads in places.items()) or "none"


def main() -> None:
    print("| checkpoint | accuracy, hops 1..D (%) | confirmed for all seeds | for some only | mechanism | program agrees (%) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in sorted(CHECKPOINTS.iterdir()):
        analyses = [analyze(path, seed=seed) for seed in SEEDS]
        print(row(path.name, load(path).metrics["accuracy"], analyses), flush=True)
    final: Any = load(CHECKPOINTS / "cycle-d4-l4-final")
    untrained = [analyze(build(final.config, final.task, seed=seed), final.task, seed=seed) for seed in SEEDS]
    print(row("untrained", {"4": untrained[0].accuracy[4]}, untrained))


if __name__ == "__main__":
    main()
