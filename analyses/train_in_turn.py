"""Train several sweeps in turn: the first run of each, then the second of each, so that a part of them is a balanced part.

    python analyses/train_in_turn.py scale-curriculum-cycle-chain scale-curriculum-cycle-final --sweeps runs/sweeps

Each sweep is `analyses/sweeps/NAME.yaml` and goes to --sweeps/NAME, as by `stackheads sweep`: finished runs are not run again,
begun ones go on, so it may be killed at any moment and begun again with the same command. `--but-for` names a table of runs
that were finished elsewhere and are left out (columns arm and seed, as in `analyses/results/scale-runs.csv`, or sweep and cell,
as in that of `mechanisms.py`), `--unsolved` leaves out only those of the table that are not solved. One process, one thread,
one run at a time; begun twice, two processes share the work. A line for each finished run; status 1 if one failed.
"""

import argparse
import sys
from itertools import zip_longest
from pathlib import Path

import pandas as pd
from claims import ROOT

from stackheads.errors import ConfigError, StackheadsError
from stackheads.sweeps.plans import Plan, read_sweep
from stackheads.sweeps.sweep import RunBusyError, carry_out, open_sweep, stored_result


def in_turn(plans: dict[Path, list[Plan]]) -> list[tuple[Path, Plan]]:
    """The first plan of each folder, then the second of each …; a folder that has no more is left out."""
    rounds = zip_longest(*([(folder, plan) for plan in made] for folder, made in plans.items()))
    return [pair for each in rounds for pair in each if pair is not None]


BY = (["sweep", "cell"], ["arm", "seed"])
"""The columns by which a table may name a run."""


def finished(file: Path, unsolved: bool = False) -> pd.DataFrame:
    """A table of finished runs, or only those that are not solved. Raises `ConfigError` for what is none."""
    rule = f"--but-for is a CSV of finished runs with columns arm and seed, or sweep and cell, {file}"
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{rule} cannot be read ({type(error).__name__}): correct the path") from None
    wanted = [*(() if any(set(by) <= set(table) for by in BY) else BY[1]), *(["solved"] if unsolved else [])]
    if missing := set(wanted) - set(table):
        raise ConfigError(f"{rule} has no {' and no '.join(sorted(missing))}: give a table like scale-runs.csv")
    return table[~table["solved"]] if unsolved else table


def but_for(plans: dict[Path, list[Plan]], done: pd.DataFrame) -> dict[Path, list[Plan]]:
    """The plans whose run is not in a table of finished ones."""
    by = next(columns for columns in BY if set(columns) <= set(done))
    runs = set(done[by].itertuples(index=False, name=None))

    def name(folder: Path, plan: Plan) -> tuple[str, str | int]:
        return folder.name, plan.name if by == BY[0] else plan.settings["training"]["seed"]

    return {folder: [plan for plan in made if name(folder, plan) not in runs] for folder, made in plans.items()}


def train(plans: dict[Path, list[Plan]]) -> int:
    """Train what has no result and is not being trained by another process; how many failed."""
    failed, order = 0, in_turn(plans)
    for number, (folder, plan) in enumerate(order, start=1):
        try:
            if stored_result(folder, plan) is not None:
                continue
            result = carry_out(plan, folder)
        except RunBusyError:
            continue
        except StackheadsError as error:
            failed += 1
            print(f"{folder.name} {plan.name} failed: {error}", file=sys.stderr, flush=True)
            continue
        shares = " ".join(f"{share:.3f}" for name, share in result.items() if name.startswith("accuracy_"))
        steps = f"{result['steps']} steps, {'solved' if result['solved'] else 'not solved'}"
        print(f"{number} of {len(order)}: {folder.name} {plan.name}, {steps}, {shares}", flush=True)
    return failed


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="sweeps, by the names of their files in analyses/sweeps")
    parser.add_argument("--sweeps", type=Path, default=ROOT / "runs" / "sweeps", help="where the folders of the sweeps are")
    parser.add_argument("--but-for", type=Path, help="a CSV of runs that are not trained again")
    parser.add_argument("--unsolved", action="store_true", help="of that table only the runs that it says are not solved")
    arguments = parser.parse_args()
    files = {name: ROOT / "analyses" / "sweeps" / f"{name}.yaml" for name in arguments.names}
    if missing := [name for name, file in files.items() if not file.exists()]:
        sys.exit(f"error: a sweep is the name of a file in analyses/sweeps, got {missing[0]!r}: see there")
    try:
        folders = {arguments.sweeps / name: read_sweep(file) for name, file in files.items()}
        done = finished(arguments.but_for, arguments.unsolved) if arguments.but_for else pd.DataFrame(columns=["arm", "seed"])
        plans = {folder: open_sweep(config, folder) for folder, config in folders.items()}
        plans = but_for(plans, done)
    except StackheadsError as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if train(plans) else 0)


if __name__ == "__main__":
    main()
