"""What do selectors explain? Every shipped checkpoint without a page of its own, the published k-hop model where it is at hand.

    python analyses/what_heads_look_at.py                          # all checkpoints, about a quarter of an hour on one core
    python analyses/what_heads_look_at.py checkpoints/NAME …       # only these
    python analyses/what_heads_look_at.py --khop FILE              # a published k-hop model (docs/results/selectors.md)
    python analyses/what_heads_look_at.py --fitted-to attention    # selectors that tell attention; five minutes
    python analyses/what_heads_look_at.py --mechanisms             # what the selectors in the tables do together: seconds

Each model is labelled on 512 examples (seed 0) and its selectors are found (`Analysis.selectors`); recovered shares are those
of 512 fresh examples. Prints Markdown: for each level of the curve the least recovered share of an open readout and how many
selectors and numbers it takes, and the most that the null, other heads' selectors, recovers. With --write the tables go to
analyses/results/selectors.csv (every selector), selectors-weights.csv (numbers of those that have several) and
selectors-curve.csv; tables there keep the rows of other models. selectors-content.png draws the content of one model. Of the
k-hop model selectors-asked.csv and .png say where its heads look for each number of hops asked, on 1,024 examples. Tables of
selectors that are fitted to attention have their own names: selectors-of-attention.csv and so on.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from claims import RESULTS, ROOT, markdown

from stackheads import Analysis, analyze, tasks
from stackheads.errors import ConfigError, StackheadsError
from stackheads.explanation.away import looking_away
from stackheads.explanation.carried import carried
from stackheads.explanation.explained import Explained
from stackheads.explanation.measuring import FITTED_TO, TO_ANSWER, FittedTo
from stackheads.explanation.mechanism import name_carried
from stackheads.files import write_file
from stackheads.models import holds_checkpoint, load, load_gpt2
from stackheads.models.hooks import record
from stackheads.report.figures import gate_map, save_figure, selector_map
from stackheads.seeds import Stream, stream
from stackheads.tables import records

PAGES = ("graph-tree-l2", "automaton-flip-flop-l2", "nearest-pairs-l1", "templates-l2", "cases-template-l2")
"""Checkpoints that have pages of their own."""
SKIPPED = ("cycle-d4-l4-final", "cycle-d4-l4-run", *PAGES)
"""One answers nothing, one is the run whose last snapshot is `cycle-d4-l4-curriculum`."""
KHOP = tasks.KHopInduction(max_hops=16, symbols=4, context=99)
KHOP_LAYERS = 3
EXAMPLES = 512
DRAWN = "cycle-d4-l3-wide"
SUFFIX = {"answer": "", "attention": "-of-attention"}

LEVELS = ("roles", "slots and positions", "gates", "content")
Found = tuple[Analysis, Explained, float, float]


def found(model: Any, task: Any = None, fitted_to: FittedTo = "answer") -> Found:
    """Labels, selectors, and the seconds that each took."""
    begun = time.perf_counter()
    analysis = analyze(model, task, examples=EXAMPLES, explain=False)
    labelled = time.perf_counter()
    selected = analysis.selectors(examples=EXAMPLES, fitted_to=fitted_to)
    return analysis, selected, labelled - begun, time.perf_counter() - labelled


def row(name: str, one: Found) -> str:
    """A line of the table."""
    analysis, selected, labelling, seconds = one
    confirmed = int((analysis.labels["status"] == "confirmed").sum())
    curve = records(selected.curve)
    levels = []
    for level in (*LEVELS, *([TO_ANSWER] if selected.fitted_to == "attention" else [])):
        rows = [each for each in curve if each["level"] == level]
        least = min((each["recovered"] for each in rows), default=None)
        levels.append("" if least is None else f"{least:.2f} ({rows[0]['selectors']}, {rows[0]['numbers']})")
    hops = selected.recovered() or selected.recovered(destination="value")
    shares = " ".join(f"{share:.2f}" for share in hops.values())
    null = max((each["recovered"] for each in records(selected.swapped)), default=float("nan"))
    held = int((selected.table["status"] == "confirmed").sum())
    told = (f"`{name}`", confirmed, *levels, shares, held, f"{selected.worst_held:.2f}", f"{null:.2f}")
    told = (*told, f"{labelling:.1f}", f"{seconds:.1f}")
    return f"| {' | '.join(map(str, told))} |"


def stored(tables: dict[str, dict[str, pd.DataFrame]]) -> None:
    """Write the tables, beside the rows of other models that are there."""
    for name, by_model in tables.items():
        path = RESULTS / f"{name}.csv"
        new = pd.concat([table.assign(model=model) for model, table in by_model.items()])
        if path.exists():
            old = pd.read_csv(path)
            new = pd.concat([old[~old["model"].isin(by_model)], new])
        new = new[["model", *(column for column in new if column != "model")]].sort_values("model", kind="stable")
        write_file(path, lambda temporary, new=new: new.round(4).to_csv(temporary, index=False))


def mechanisms(fitted_to: FittedTo) -> list[str]:
    """Lines of a table: the mechanism by which the selectors that are stored for each model give its answers."""
    files = (RESULTS / f"selectors{SUFFIX[fitted_to]}{part}.csv" for part in ("", "-curve"))
    table, curve = (pd.read_csv(file).astype({"hop": "Int64"}) for file in files)
    lines = ["| model | by selectors | how far, and what else it takes |", "| --- | --- | --- |"]
    for name in table["model"].unique():
        folder = ROOT / "checkpoints" / name
        loaded = load(folder) if folder.exists() else None
        task: Any = loaded.task if loaded else KHOP
        layers = loaded.config.layers if loaded else KHOP_LAYERS
        batch = task.sample(EXAMPLES, stream(0, Stream.SELECTORS_TRIED, "gates"))
        selectors, levels = (each[each["model"] == name].drop(columns="model") for each in (table, curve))
        away = [] if loaded is None else looking_away(record(loaded.model, batch.tokens).pattern, batch, task)
        named = name_carried(carried(selectors, levels, task, batch, layers, away=away), task, None)
        lines.append(f"| `{name}` | {named.name} | {named.reason} |")
    return lines


def draw_content() -> None:
    """The tables of symbols in selectors-weights.csv of the model that needs most of them."""
    weights = pd.read_csv(RESULTS / "selectors-weights.csv").astype({"value": "Int64", "at": "Int64"})
    rows = weights[(weights["model"] == DRAWN) & weights["what"].str.contains("×")]
    if len(rows):
        save_figure(selector_map(rows), RESULTS / "selectors-content.png")


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="checkpoints")
    parser.add_argument("--khop", type=Path, help="a published k-hop model of four heads a layer")
    parser.add_argument("--fitted-to", choices=FITTED_TO, default=FITTED_TO[0], help="what the selectors are fitted to")
    parser.add_argument("--write", action="store_true", help="also write the tables")
    parser.add_argument("--mechanisms", action="store_true", help="only say what the selectors in the tables do together")
    arguments = parser.parse_args()
    if arguments.mechanisms:
        print(*mechanisms(arguments.fitted_to), sep="\n")
        return
    folders = arguments.folders
    if not folders and arguments.khop is None:
        folders = [
            path for path in sorted((ROOT / "checkpoints").iterdir()) if holds_checkpoint(path) and path.name not in SKIPPED
        ]
    subjects: dict[str, tuple[Any, Any]] = {folder.name: (folder, None) for folder in folders}
    columns = ["model", "confirmed labels", "roles", "+ slots, positions", "+ gates", "+ content"]
    columns += ["weights to the answer"] if arguments.fitted_to == "attention" else []
    columns += ["per hop", "confirmed selectors", "held alone", "null", "seconds for labels", "for selectors"]
    print(markdown(columns, []))
    name_of = {part: f"selectors{SUFFIX[arguments.fitted_to]}{part}" for part in ("", "-weights", "-curve")}
    tables: dict[str, dict[str, pd.DataFrame]] = {name: {} for name in name_of.values()}
    try:
        if arguments.khop is not None:
            if not arguments.khop.exists():
                raise ConfigError(f"--khop is a file, got {arguments.khop}: correct the path")
            model = load_gpt2(arguments.khop, KHOP, 4, "identity", allow_pickle=True)
            subjects[arguments.khop.stem] = (model, KHOP)
        for name, subject in subjects.items():
            one = found(*subject, arguments.fitted_to)
            print(row(name, one), flush=True)
            for part, table in (("", one[1].table), ("-weights", one[1].weights), ("-curve", one[1].curve)):
                tables[name_of[part]][name] = table
            if subject[1] is KHOP and arguments.fitted_to == "answer":
                table = one[0].by_gate(examples=2 * EXAMPLES)
                tables["selectors-asked"] = {name: table[table["gate"] == "asked"]}
    except StackheadsError as error:
        sys.exit(f"error: {error}")
    if arguments.write:
        stored(tables)
        draw_content()
        for table in tables.get("selectors-asked", {}).values():
            last = table["layer"] == table["layer"].max()
            save_figure(gate_map(table[last]), RESULTS / "selectors-asked.png")


if __name__ == "__main__":
    main()
