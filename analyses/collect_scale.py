"""Gather the finished runs of the sweeps at the paper's scale into tables that can be committed and extended later.

    python analyses/collect_scale.py runs/sweeps                     # the finished runs of all scale-… sweeps found there
    python analyses/collect_scale.py runs/sweeps elsewhere/sweeps    # with runs that were finished elsewhere

A folder holds `NAME/`, a sweep made from `analyses/sweeps/NAME.yaml` (`train_in_turn.py`, `stackheads sweep`); it is only
read. The tables, analyses/results/scale-runs.csv and scale-curves.csv, are added to: their key is (arm, seed), their order
that of arms and seeds, and the same runs give the same bytes in whatever parts they came. A run that is there with other
results, as from another machine, is an error, and no file is changed. `--only` takes some of the sweeps.

scale-runs.csv, a row for each run: `steps` trained; `solved`, every hop at the sweep's bar (99 %) on 4,096 fresh examples at
the end; `solved_at`, the first evaluation at which every hop reached it; `accuracy_J` at the end; `half_J` and `learnt_J`,
the first evaluation at which hop J reached 50 and 90 %; `seconds` of training, the median time between two evaluations times
their number: pauses do not count, sharing the machine with others does. scale-curves.csv: held-out loss and accuracy of each
hop at every fifth evaluation and the last.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from claims import RESULTS, ROOT

from stackheads.errors import ConfigError, StackheadsError
from stackheads.files import write_file
from stackheads.sweeps.plans import Plan, plans, read_sweep
from stackheads.sweeps.sweep import check_sweep, plan_folder, stored_result

SWEEPS = ROOT / "analyses" / "sweeps"
KEY = ["arm", "seed"]
BARS = {"half": 0.5, "learnt": 0.9}
MOST_HOPS = 4
EVERY = 5
TABLES = ("scale-runs", "scale-curves")

Tables = dict[str, pd.DataFrame]


def collect(folder: Path, files: list[Path]) -> Tables:
    """The finished runs of these sweeps in a folder. Raises `ConfigError` for one with other settings than its file."""
    runs, curves = [], []
    for file in files:
        config = read_sweep(file)
        check_sweep(config, folder / file.stem)
        for plan in plans(config):
            result = stored_result(folder / file.stem, plan)
            if result is not None:
                history = evaluations(folder / file.stem, plan)
                names = {"arm": file.stem, "seed": plan.settings["training"]["seed"]}
                runs.append(names | summary(result, history))
                curves += [names | curve_row(line) for line in thinned(history)]
    return {"scale-runs": ordered(pd.DataFrame(runs)), "scale-curves": ordered(pd.DataFrame(curves))}


def evaluations(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    """What a run measured while it was trained, with accuracy by hop."""
    lines = map(json.loads, (plan_folder(folder, plan) / "metrics.jsonl").read_text().splitlines())
    return [{**line, "accuracy": {int(hop): share for hop, share in line["accuracy"].items()}} for line in lines]


def summary(result: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    """A run in one row; hops that are not asked are missing."""
    hops = range(1, MOST_HOPS + 1)
    row = {name: result[name] for name in ("steps", "solved", "solved_at")}
    row |= {f"accuracy_{hop}": result.get(f"accuracy_{hop}") for hop in hops}
    row |= {f"{name}_{hop}": first_at(history, hop, bar) for name, bar in BARS.items() for hop in hops}
    return row | {"seconds": round(seconds([line["time"] for line in history]))}


def first_at(history: list[dict[str, Any]], hop: int, bar: float) -> int | None:
    """The step of the first evaluation at which a hop reached the bar; None if it never did or is not asked."""
    return next((line["step"] for line in history if line["accuracy"].get(hop, 0) >= bar), None)


def seconds(times: list[float]) -> float:
    """The median time between evaluations times their number; 0 for a single one."""
    return float(pd.Series(times).diff().median() * len(times)) if len(times) > 1 else 0.0


def thinned(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every fifth evaluation, and the last."""
    return [line for number, line in enumerate(history, start=1) if number % EVERY == 0 or number == len(history)]


def curve_row(line: dict[str, Any]) -> dict[str, Any]:
    """An evaluation: step, loss, accuracy of each hop."""
    shares = {f"hop_{hop}": line["accuracy"].get(hop) for hop in range(1, MOST_HOPS + 1)}
    return {"step": line["step"], "loss": line["loss"], **shares}


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by arm, seed and step; shares and losses rounded, steps whole numbers or missing."""
    if table.empty:
        return table
    whole = [name for name in table if name.startswith(("step", "solved_at", *BARS))]
    table = table.astype(dict.fromkeys(whole, "Int64"))
    table = table.round(dict.fromkeys(table.columns.difference([*whole, *KEY, "solved"]), 5))
    return table.sort_values([*KEY, *(["step"] if "step" in table else [])], ignore_index=True)


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The runs of both tables, each once. Raises `ConfigError` for a run that is not the same in both, seconds aside."""
    if old.empty or new.empty:
        return new if old.empty else old
    known, more = by_run(old), by_run(new)
    for arm, seed in known.keys() & more.keys():
        if written(known[arm, seed]) != written(more[arm, seed]):
            raise ConfigError(f"a run has one result, {arm} seed {seed} has another where it was collected before: keep one")
    return ordered(pd.concat([old, *(rows for run, rows in more.items() if run not in known)]))


def by_run(table: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """The rows of each run."""
    return {(str(arm), int(seed)): rows for (arm, seed), rows in table.groupby(KEY)}


def written(rows: pd.DataFrame) -> str:
    """What a run's rows say, as text, without the time that it took."""
    return rows.drop(columns="seconds", errors="ignore").to_csv(index=False)


def stored(file: Path) -> pd.DataFrame:
    """A table as it was written; an empty one where there is none."""
    return ordered(pd.read_csv(file)) if file.exists() else pd.DataFrame()


def gather(folders: list[Path], results: Path, files: list[Path]) -> Tables:
    """What is in the tables already, with the finished runs of these folders."""
    tables = {name: stored(results / f"{name}.csv") for name in TABLES}
    for folder in folders:
        found = collect(folder, files)
        tables = {name: merged(tables[name], found[name]) for name in TABLES}
    return tables


def counts(runs: pd.DataFrame) -> str:
    """For each arm the runs that are there, and how many of them are solved."""
    by_arm = runs.groupby("arm").agg(runs=("seed", "size"), solved=("solved", "sum"), hours=("seconds", "sum"))
    return by_arm.assign(hours=(by_arm["hours"] / 3600).round(1)).to_string()


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps")
    parser.add_argument("--only", default="scale-*", help="which sweeps, a pattern of the names of their files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the CSVs are")
    arguments = parser.parse_args()
    try:
        if missing := [folder for folder in arguments.folders if not folder.is_dir()]:
            raise ConfigError(f"sweeps are collected from folders that exist, got {missing[0]}: correct it")
        tables = gather(arguments.folders, arguments.results, sorted(SWEEPS.glob(f"{arguments.only}.yaml")))
        if tables["scale-runs"].empty:
            raise ConfigError(f"tables are of finished runs, {arguments.folders[0]} has none: wait for the first")
    except StackheadsError as error:
        sys.exit(f"error: {error}")
    for name, table in tables.items():
        write_file(arguments.results / f"{name}.csv", lambda temporary, table=table: table.to_csv(temporary, index=False))
    print(counts(tables["scale-runs"]))


if __name__ == "__main__":
    main()
