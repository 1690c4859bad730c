"""What automaton do a model's labels make, when every head looks only where its label says?

    python analyses/automaton_of_labels.py              # checkpoints/automaton-flip-flop-l2, half a minute
    python analyses/automaton_of_labels.py FOLDER …     # checkpoints, or runs of the sweep `automata` (automata.py)

Labels are made on 512 examples (seed 0). Then the model reads every string of --length symbols, more symbols behind them
filling its context, three times: as it is; with confirmed heads looking exactly where their labels say and all others giving
their means (`trial/sufficiency.py`, (i)); and with all heads giving their means. From the likeliest state after each prefix an
automaton is extracted (`theory.extract`, tried on every string of up to --length less three symbols, of which it must agree
with 99 %) and compared with the language's.
Beside it the share of the gap that the labels keep on 512 fresh examples (the trial's). Prints Markdown; with --write also
analyses/results/automaton-of-labels.csv, which keeps the rows of other models.
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from automata import AGREEMENT, MOST, Asked
from claims import RESULTS, ROOT, markdown, percent

from stackheads import analyze, load
from stackheads.errors import ConfigError, StackheadsError
from stackheads.explanation.ideal import ideal_edits, silenced
from stackheads.files import write_file
from stackheads.labelling.bench import bench_of, make_bench, read_labels
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import holds_checkpoint, snapshot_folder
from stackheads.models.hooks import analysing
from stackheads.seeds import Stream, stream
from stackheads.tables import records
from stackheads.tasks import Automaton
from stackheads.theory import extract, same
from stackheads.theory.machines import Word
from stackheads.trial.sufficiency import sufficiency

EXAMPLES, SEED, LENGTH, BEYOND = 512, 0, 7, 3


def measured(folder: Path, length: int) -> list[dict[str, Any]]:
    """A row for each way to run the model."""
    checkpoint = load(folder if holds_checkpoint(folder) else snapshot_folder(folder))
    model, task = checkpoint.model, checkpoint.task
    if not isinstance(task, Automaton) or task.context <= length:
        raise ConfigError(f"an automaton of strings of {length} symbols is asked for, got {task.name}: name another checkpoint")
    analysis = analyze(checkpoint, examples=EXAMPLES, seed=SEED, progress=False, explain=False)
    labels = read_labels(analysis.labels)
    fresh = make_bench(model, task, EXAMPLES, SEED, Thresholds(), Stream.TRIAL)
    with analysing(model):
        trial = sufficiency(fresh, labels)
    kept = trial.loc[trial["variant"] == "ideal", "recovered"].min()
    confirmed = [label for label in labels if label.status == "confirmed"]
    strings = torch.tensor([[task.begin, *word] for word in product(range(task.begin), repeat=length)])
    generator = stream(SEED, Stream.AUTOMATA, "labels")
    behind = torch.randint(task.begin, (len(strings), task.context - 1 - length), generator=generator)
    bench = bench_of(model, task, task.batch(torch.cat([strings, behind], dim=1)), Thresholds())
    with analysing(model):
        runs = {
            "as it is": bench.clean.run.logits,
            "by its labels": bench.run(silenced(bench, labels, confirmed, "mean") + ideal_edits(bench, confirmed)),
            "no head looking": bench.run(silenced(bench, labels, [], "mean")),
        }
    rows = []
    for way, logits in runs.items():
        asked, said = Asked(model, task), logits.argmax(dim=-1)[:, : length + 1]
        words = set(asked.remember(strings, said))

        def box(some: list[Word], asked: Asked = asked) -> list[int]:
            if unknown := [word for word in some if word not in asked.known]:
                raise ConfigError(f"strings of up to {length} symbols were run, got one of {len(unknown[0])}: raise --length")
            return asked(some)

        trials = sorted(word for word in words if len(word) <= length - BEYOND)
        found = extract(box, task.begin, trials, AGREEMENT, MOST)
        right = sum(asked.known[word] == task.machine.answer(word) for word in words) / len(words)
        states = found.machine.states if found.found and found.machine is not None else None
        is_right = found.found and found.machine is not None and same(found.machine, task.machine)
        row = {"model": folder.name, "language": task.language, "confirmed": len(confirmed), "kept": kept, "run": way}
        rows.append({**row, "right": right, "states": states, "automaton_right": is_right})
    return rows


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / "checkpoints" / "automaton-flip-flop-l2"])
    parser.add_argument("--length", type=int, default=LENGTH, help="symbols of the strings that are run")
    parser.add_argument("--write", action="store_true", help="also write the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        rows = [row for folder in arguments.folders for row in measured(folder, arguments.length)]
    except StackheadsError as error:
        sys.exit(f"error: {error}")
    table = pd.DataFrame(rows).round(4).astype({"states": "Int64"})
    if arguments.write:
        path = RESULTS / "automaton-of-labels.csv"
        old = pd.read_csv(path).astype({"states": "Int64"}) if path.exists() else table[:0]
        both = pd.concat([old[~old["model"].isin(table["model"])], table]).sort_values("model", kind="stable")
        write_file(path, lambda temporary: both.to_csv(temporary, index=False))
    header = ["model", "confirmed", "kept", "run", "right states (%)", "states of its automaton", "right"]
    cells = []
    for row in records(table):
        right = "yes" if row["automaton_right"] else "no"
        shares = (f"{row['kept']:.2f}", row["run"], percent(row["right"]))
        cells.append([f"`{row['model']}`", row["confirmed"], *shares, row["states"], right])
    print(markdown(header, cells))


if __name__ == "__main__":
    main()
