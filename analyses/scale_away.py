"""Do heads on a cycle find a hop by looking at all keys but its own? (docs/results/paper.md#scale-away)

    python analyses/scale_away.py                                    # table and figure from analyses/results/scale-away.csv
    python analyses/scale_away.py --from-scratch --finished --keep   # measure the runs that are finished

Of most of the runs that walk over keys (`scale_keys.py`) labels say "no clear pattern" of many heads without which answers are
lost. In the three whose attention was looked at before this was written (seeds 14, 24 and 29 of `scale-curriculum-cycle-chain`)
such heads have, on average over examples, about the same attention on each key slot, but for one or a few: at the query all
keys but its own. What all others are could say what is missing, since each symbol comes once round a cycle: a hop by
elimination. No role says that, since roles name one source.

So of each solved run, with keys as sources, on 256 examples, seed 0, query and key slots apart: a head *looks at all keys but
some* where half of its attention or more is on key slots, on one to three of the eight offsets it has a quarter of the median
offset's attention or less (the *gaps*), and on none twice the median or more, which would be a look at that key.

What is said of these heads is put to the test on 256 other examples, seed 1: all of them at once, at their destinations, look
evenly at all keys but their gaps, and at nothing else (`ideal`); evenly at all keys (`even`); evenly at all keys but those half
a cycle away from their gaps (`moved`). All else is made by the model anew. Fixed before any run but those three was measured
so: that in a run hops rest on looking away is *shown* where with `ideal` the weakest answer keeps half or more, and with
`even` and with `moved` less than half.

Asked after this was seen: in how many of ten more tests, seeds 2 to 11, it is shown `again`; whether a head looks evenly in
each example or only on average: of its attention on keys that are no gaps, the share of the one with the `largest`, the median
over rows; and how many heads look at all *values* but some, at the query or at value slots (`over_values`). Key slots over
values, and value slots over keys, of which key -1 has another name there, are not asked.

What these heads bring was asked when selectors had been told that such a look is one, which brings what it leaves out, and not
every source that it does look at (`explanation/away.py`). Labels and selectors, fitted to attention, make a program, which is
compiled and answers fresh examples; it *explains* a run where it answers every hop as the model does in 95 % or more of them.
Asked with each such look as one (`program`); with each source as a step of its own (`program_each`); and with the gaps moved
(`program_moved`). The first two were seen in the eleven runs while the rule was made, the third in none.

Columns of scale-away.csv, a row for each finished run, empty from `mechanism` on where it is not solved: the `mechanism` by
labels without keys as sources, how many (head, destination) look at all keys but some, how many of them at the query
(`at_query`), which they are (`looks`), what the weakest answer keeps in the three ways, and what each hop keeps with `even`
(`even_hops`), and how often the programs answer as the model does, the least of all hops. Writes scale-away.csv and
scale-away.png.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from claims import BLUE, GREY, KEPT, ORANGE, Claim, Run, Tables, kept_analysis, last_snapshot, main, markdown, number, rate
from mechanisms import EXPLAINED
from tqdm import tqdm

from stackheads import analyze
from stackheads.explanation.away import Away, looking_away, source
from stackheads.explanation.ideal import evenly
from stackheads.explanation.program import agreement, label_steps
from stackheads.explanation.together import of_selectors
from stackheads.interventions import destination_rows
from stackheads.labelling.bench import Bench, make_bench
from stackheads.labelling.roles import role_targets
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import load
from stackheads.models.hooks import Edit, PatternEdit
from stackheads.processes import worker_pool
from stackheads.report.figures.style import plain
from stackheads.tasks import Cycle, with_keys
from stackheads.types import Destination, Role

BAR = 0.5
EXAMPLES = 256
FIND, TEST, AGAIN = 0, 1, range(2, 12)
"""The seeds of the examples on which heads are found, on which what is said of them is tested, and tested again."""
WAYS = {"ideal": "all keys but the gaps", "even": "all keys", "moved": "gaps moved"}
WHOLE = ("cells", "at_query", "over_values", "again")
COLUMNS = ["sweep", "cell", "seed", "solved", "mechanism", "cells", "at_query", "over_values", "looks", "largest", *WAYS]
COLUMNS += ["even_hops", "again"]
PROGRAMS = {"program": "what is left out", "program_each": "each source", "program_moved": "gaps moved"}
COLUMNS += PROGRAMS


def measure(runs: list[Run], workers: int) -> Tables:
    """A row for each run."""
    with worker_pool(workers) as pool:
        rows = list(tqdm(pool.map(away_row, runs), total=len(runs), desc="runs", disable=None))
    return {"scale-away": as_table(rows)}


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table, with all of its columns whatever was found."""
    return pd.DataFrame(rows).reindex(columns=COLUMNS).astype(dict.fromkeys(WHOLE, "Int64"))


def away_row(run: Run) -> dict[str, Any]:
    """What was found in one run; only its name and result where it is not solved."""
    row = {**run.names, "solved": run.result["solved"]}
    if not run.result["solved"]:
        return row
    torch.set_num_threads(1)
    checkpoint = load(last_snapshot(run))
    row["mechanism"] = kept_analysis(run, KEPT).mechanism
    return row | found_looking(checkpoint.model, with_keys(checkpoint.task))


def found_looking(model: Any, task: Cycle) -> dict[str, Any]:
    """Which heads look at all keys but some, and what the weakest answer keeps where they do so exactly, or do not."""
    finding = make_bench(model, task, EXAMPLES, FIND, Thresholds())
    every = looking_away(finding.clean.run.pattern, finding.clean.batch, task)
    looks = [look for look in every if look.kind == "key"]
    row: dict[str, Any] = {"cells": len(looks), "at_query": sum(look.at is Destination.QUERY for look in looks)}
    row |= {
        "over_values": len(every) - len(looks),
        "looks": "; ".join(map(_told, looks)),
        "largest": " ".join(f"{_largest(finding, task, look):.2f}" for look in looks),
    }
    if not looks:
        return row
    first, *more = ([_kept(bench, task, looks, way) for way in WAYS] for bench in _tests(model, task))
    found = [dict(zip(WAYS, map(min, shares), strict=True)) for shares in (first, *more)]
    row |= {way: round(share, 4) for way, share in found[0].items()} | {
        "even_hops": " ".join(f"{share:.2f}" for share in first[1])
    }
    return row | {"again": int(rests_on_looking_away(pd.DataFrame(found[1:])).sum())} | programs(model, task)


def programs(model: Any, task: Cycle) -> dict[str, float]:
    """How often the program of labels and selectors answers as the model does, the least of all hops, in each way."""
    labelled = analyze(model, task=task, examples=EXAMPLES, seed=FIND, progress=False)
    chosen = labelled.selectors(examples=EXAMPLES, fitted_to="attention", progress=False)
    steps, layers = label_steps(labelled.labels), model.cfg.n_layers
    ways = {"program": chosen.away, "program_each": (), "program_moved": [_moved(look, task) for look in chosen.away]}
    found = {}
    for name, looks in ways.items():
        _, extracted = of_selectors(chosen, steps, layers, task, Thresholds(), looks)
        agreed = {} if extracted is None else agreement(extracted, model, task, seed=chosen.seed)
        found[name] = round(min(agreed.values(), default=0.0), 4)
    return found


def _tests(model: Any, task: Cycle) -> Iterator[Bench]:
    """Examples on which what is said of heads is tested: the ones that decide, then others."""
    return (make_bench(model, task, EXAMPLES, seed, Thresholds()) for seed in (TEST, *AGAIN))


def _largest(bench: Bench, task: Cycle, look: Away) -> float:
    """Of a head's attention on keys that are no gaps, the share of the one that has most: the median over rows."""
    rows = destination_rows(bench.clean.batch, look.at)
    there = role_targets(task, bench.clean.batch, _but(task, look.at, look.gaps)).any(dim=0)
    on_keys = (bench.clean.run.of(look.head)[0] * there)[rows]
    return (on_keys.amax(dim=-1) / on_keys.sum(dim=-1)).median().item()


def _but(task: Cycle, at: Destination, gaps: Sequence[int]) -> list[Role]:
    """All keys but those of some offsets."""
    return [source("key", hop, at) for hop in task.hops if hop not in gaps]


def _told(look: Away) -> str:
    """As the table has it: "L1H0 @key but 0, 1"."""
    return f"{look.head} @{look.at} but {', '.join(map(str, look.gaps))}"


def _moved(look: Away, task: Cycle) -> Away:
    """A look at all keys but those half a cycle away from its gaps."""
    return replace(look, gaps=tuple(task.same_offset(gap + task.symbols // 2) for gap in look.gaps))


def _kept(bench: Bench, task: Cycle, looks: Sequence[Away], way: str) -> list[float]:
    """What each answer keeps where these heads look evenly at all keys, but those that a way leaves out. One forward pass."""
    batch, dtype = bench.clean.batch, bench.clean.run.z.dtype
    edits: list[Edit] = []
    for look in looks:
        left_out = {"ideal": look.gaps, "even": (), "moved": _moved(look, task).gaps}[way]
        targets = role_targets(task, batch, _but(task, look.at, left_out)).any(dim=0)
        edits.append(PatternEdit(look.head, destination_rows(batch, look.at), evenly(targets, dtype)))
    shares = bench.recovered(bench.margin(edits)).tolist()
    return [shares[readout] for readout in bench.open_readouts]


def rests_on_looking_away(runs: pd.DataFrame) -> pd.Series:
    """Of which runs it is shown, by the rule that was fixed before."""
    return (runs["ideal"] >= BAR) & (runs[["even", "moved"]].max(axis=1) < BAR)


def tell(tables: Tables) -> str:
    """How many runs rest on looking away, those that labels do not explain and the others; and a table."""
    table = tables["scale-away"]
    solved = table[table["solved"]].reset_index(drop=True)
    there = solved[solved["cells"] > 0].astype(dict.fromkeys(WHOLE, "Int64"))
    more = {way: int((there["ideal"] > there[way]).sum()) for way in ("even", "moved")}
    of_values = solved["over_values"]
    largest = pd.Series([float(share) for shares in there["largest"] for share in str(shares).split()])
    text = [
        f"with heads that look at all keys but some: {rate(len(there), len(solved))}",
        f"shown to rest on looking away: {rate(int(rests_on_looking_away(solved).sum()), len(solved))}",
        f"the gaps keep more than all keys in {more['even']} of {len(there)}, more than moved gaps in {more['moved']}",
        f"the key with most has, in the median row, this of a head's attention on keys that are no gaps: {_spread(largest)}",
        f"at all values but some look {number(of_values.sum())} heads, in {int((of_values > 0).sum())} of the runs",
    ]
    if len(there):
        for way, words in PROGRAMS.items():
            text.append(f"programs answer as the model does, {words}: {rate(int((there[way] >= EXPLAINED).sum()), len(there))}")
    parts = {"mechanism none": solved["mechanism"] == "none", "any other": solved["mechanism"] != "none"}
    rows = []
    for words, these in parts.items():
        some = solved[these]
        counts = [int((some[name] > 0).sum()) for name in ("cells", "at_query")]
        rows.append([words, len(some), *counts, *(_spread(some[way]) for way in WAYS), int(rests_on_looking_away(some).sum())])
    header = ["runs", "number", "with such heads", "at the query", *WAYS.values(), "shown"]
    text.append(markdown(header, rows))
    columns = ["seed", "cells", *WAYS, "again", *PROGRAMS, "even_hops", "looks", "largest"]
    text.append(markdown(columns, there[columns].values.tolist()))
    return "\n\n".join(text)


def _spread(shares: pd.Series) -> str:
    """Median and range of what is there; a dash where nothing is."""
    return "–" if shares.isna().all() else f"{shares.median():.2f} ({shares.min():.2f} to {shares.max():.2f})"


def draw(tables: Tables) -> Any:
    """A point for each solved run: what answers keep where these heads look at all keys but the gaps, and at all keys."""
    from matplotlib.figure import Figure

    table = tables["scale-away"]
    solved = table[table["solved"]]
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("even", BLUE), ("moved", ORANGE)):
        axes.plot(solved["ideal"], solved[name], "o", color=colour, alpha=0.7, markeredgewidth=0, label=WAYS[name])
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    for line in (axes.axhline, axes.axvline):
        line(BAR, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="share of the weakest answer kept: all keys but the gaps", ylabel="the same otherwise")
    axes.legend(frameon=False, loc="upper left")
    plain(axes)
    return figure


CLAIM = Claim(__doc__, "scale-away", ("scale-curriculum-cycle-chain",), measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
