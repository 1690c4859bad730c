"""Do the runs on a cycle that have no label walk over key slots? (docs/results/paper.md#scale-keys)

    python analyses/scale_keys.py                                    # table and figure from analyses/results/scale-keys.csv
    python analyses/scale_keys.py --from-scratch --finished --keep   # measure the runs that are finished

Of many of the solved runs of `scale-curriculum-cycle-chain` labels confirm next to nothing and selectors keep next to
nothing (`scale_mechanisms.py`). Probes read hops at their key slots and none at value slots, and in the one whose attention
was looked at (seed 12) the last head at the query has 0.95 of it on the *key* f(s), where all hop roles name value slots.
Where attention is causal a key knows nothing that follows; looking both ways it knows its value, and others may walk over
keys as well.

So each solved run is analysed again with key slots as sources (`tasks.with_keys`; 256 examples, seed 0; selectors fitted to
attention), and, as a control, with those of another example. Fixed before any run but that one was measured so: that a run
walks over keys is *shown* where with them its selectors keep half of the weakest answer or more, without and with those of
another example less than half. At first that was measured with a subclass of the task, which had `key j` for j but 0 and -1
and no words in programs, on 23 runs; what is told now is of the words that are built in, `key 0` and `hop 0` for what was
`duplicate`, and own values of keys among them. The same, by the same rule, of the runs of `scale-curriculum-cycle-final` that
are there, which learn the cycle though nothing but its last hop is asked.

Columns of scale-keys.csv, a row for each finished run, empty from `mechanism` on where it is not solved: `mechanism` by
labels and `kept` as in scale-mechanisms.csv, `at_value` and `at_key`, the hops that probes read there before the last
layer, and whether the reason `hints` at keys; then with keys the name by labels, `keyed_mechanism`, and by selectors,
`keyed_selectors`, the share of examples on which the program answers as the model does, of the hop with the least (`agrees`),
`lacks`, what probes read and no step brings that confirmed heads could find their source by, what roles alone keep of each hop
that is asked (`roles_alone`), `confirmed` cells, those of them that look at keys (`keyed`), their `roles`, and `with_keys`,
what selectors keep; and `with_others`, what they keep with the keys of another example. Writes scale-keys.csv and
scale-keys.png.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from claims import BLUE, GREY, KEPT, ORANGE, Claim, Run, Tables, kept_analysis, last_snapshot, main, markdown, number, rate
from jaxtyping import Int
from mechanisms import kept_selectors
from torch import Tensor
from tqdm import tqdm

from stackheads import Analysis, analyze
from stackheads.analysis import Selectors
from stackheads.explanation.carried import roles_alone
from stackheads.explanation.mechanism import lacking
from stackheads.explanation.program import extract_program
from stackheads.labelling.stability import layer_roles
from stackheads.models import load
from stackheads.processes import worker_pool
from stackheads.report.figures.style import plain
from stackheads.tasks import Cycle, with_keys
from stackheads.tasks.links import Links
from stackheads.validation.kept import kept, key

BAR = 0.5


class OthersKeys(Cycle):
    """The control: key slots where they stand in another example."""

    def _operands(self, links: Links, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch operand pos"] | None:
        found = super()._operands(links, tokens)
        return None if found is None else found.roll(1, dims=0)


def measure(runs: list[Run], workers: int) -> Tables:
    """A row for each run."""
    with worker_pool(workers) as pool:
        return {"scale-keys": pd.DataFrame(list(tqdm(pool.map(keys_row, runs), total=len(runs), desc="runs", disable=None)))}


def keys_row(run: Run) -> dict[str, Any]:
    """What was found in one run; only its name and result where it is not solved."""
    row = {**run.names, "solved": run.result["solved"]}
    if not run.result["solved"]:
        return row
    torch.set_num_threads(1)
    found = kept_analysis(run, KEPT)
    row |= {"mechanism": found.mechanism, "kept": kept_selectors(run, found)["kept"]}
    row |= {f"at_{place}": read_at(found, place) for place in ("value", "key")}
    row["hints"] = "keys as sources" in (found.mechanism_reason or "")
    name = f"keys-{key({}, last_snapshot(run), Path(__file__))}"
    (more,) = kept(KEPT / run.sweep / run.plan.name, name, lambda: [keyed_row(last_snapshot(run))])
    return row | more


def read_at(found: Analysis, place: str) -> str:
    """The hops that probes read at a destination before the last layer, in words."""
    rows = found.reach[(found.reach["destination"] == place) & (found.reach["layer"] == found.reach["layer"].max() - 1)]
    return " ".join(map(str, rows["hops"].iloc[0]))


def keyed_row(folder: Path) -> dict[str, Any]:
    """What labels and selectors of a checkpoint say where keys are sources, and selectors with the keys of another example."""
    checkpoint = load(folder)
    labelled = _analysed(checkpoint.model, with_keys(checkpoint.task))
    chosen = _selectors(labelled)
    of_level = {level: chosen.recovered(level) for level in chosen.levels}
    control = _selectors(_analysed(checkpoint.model, OthersKeys(**with_keys(checkpoint.task).model_dump())))
    confirmed = labelled.labels[labelled.labels["status"] == "confirmed"]
    roles = "; ".join(
        f"L{layer} {place} {role}" + (f" × {count}" if count > 1 else "")
        for (layer, place, role), count in sorted(layer_roles(labelled.labels).items())
    )
    agreed = labelled.program_agreement
    return {
        "keyed_mechanism": labelled.mechanism,
        "keyed_selectors": chosen.mechanism,
        "agrees": None if agreed is None else round(min(agreed.values()), 4),
        "lacks": _lacks(labelled, with_keys(checkpoint.task)),
        "roles_alone": " ".join(f"{share:.2f}" for share in roles_alone(of_level).values()),
        "confirmed": len(confirmed),
        "keyed": int((confirmed["role"] == "key").sum()),
        "roles": roles,
        "with_keys": _least(chosen),
        "with_others": _least(control),
    }


def _analysed(model: Any, task: Cycle) -> Analysis:
    return analyze(model, task=task, examples=256, seed=0, progress=False)


def _selectors(found: Analysis) -> Selectors:
    return found.selectors(examples=256, fitted_to="attention", progress=False)


def _least(chosen: Selectors) -> float:
    return round(min(chosen.recovered(chosen.levels[-1]).values()), 4)


def _lacks(found: Analysis, task: Cycle) -> str | None:
    """What confirmed heads could find their source by that no step brings and probes read, each once."""
    extracted = extract_program(found.labels, task)
    lacks = () if extracted is None else lacking(extracted, task, found.reach)
    return "; ".join(dict.fromkeys(lack.what for lack in lacks)) or None


def walks_over_keys(runs: pd.DataFrame) -> pd.Series:
    """Of which runs it is shown, by the rule that was fixed before."""
    return (runs["with_keys"] >= BAR) & (runs[["kept", "with_others"]].max(axis=1) < BAR)


def tell(tables: Tables) -> str:
    """What is kept without keys, with them, and with those of another example, of each sweep; tables of all runs."""
    table = tables["scale-keys"]
    solved = table[table["solved"]]
    return "\n\n".join(
        f"{sweep}\n\n{_told(runs.reset_index(drop=True))}" for sweep, runs in solved.groupby("sweep", sort=False)
    )


def _told(solved: pd.DataFrame) -> str:
    """The same of some runs."""
    shown = walks_over_keys(solved)
    text = [f"shown to walk over keys: {rate(int(shown.sum()), len(solved))}"]
    for words, names in (("labels", ("mechanism", "keyed_mechanism")), ("selectors, with keys", ("keyed_selectors",))):
        counts = ["; ".join(f"{n} {name}" for name, n in solved[column].value_counts().items()) for column in names]
        text.append(f"mechanism by {words}: {', with keys '.join(counts)}")
    hinted = solved["hints"].astype(bool)
    text.append(f"the reason hints at keys: in {int((hinted & shown).sum())} of these, {int((hinted & ~shown).sum())} others")
    unnamed = solved["mechanism"] == "none"
    parts = {"mechanism none": unnamed, "any other": ~unnamed}
    rows = []
    for words, these in ((words, these) for words, these in parts.items() if these.any()):
        some = solved[these]
        medians = [f"{some[name].median():.2f} ({some[name].min():.2f}–{some[name].max():.2f})" for name in SHARES]
        read = [int((some[f"at_{place}"].fillna("") != "").sum()) for place in ("value", "key")]
        cells = [number(some[name].sum()) for name in ("confirmed", "keyed")]
        rows.append([words, len(some), *read, *medians, *cells, int(some["roles"].str.contains("query key").sum())])
    header = ["runs", "number", "hops read at values", "at keys", *SHARES.values(), "confirmed with keys", "of them keys"]
    header.append("runs with a key at the query")
    text.append(markdown(header, rows))
    for words, these in parts.items():
        by_labels, by_selectors = (solved[these & solved[f"keyed_{by}"].isin(UNNAMED)] for by in ("mechanism", "selectors"))
        lost = by_selectors["roles_alone"].dropna().str.split().map(lambda shares: [float(share) < BAR for share in shares])
        hops = lost.map(lambda low: ", ".join(str(hop) for hop, less in enumerate(low, start=DEPTH + 1 - len(low)) if less))
        for said, found in (
            ("no name by labels, heads could find their source by", by_labels["lacks"].fillna("nothing")),
            ("no name by selectors, roles alone keep less than half of hop", hops.replace("", "none")),
        ):
            if len(found):
                text.append(f"{words}, {said}: {'; '.join(f'{what} in {n} runs' for what, n in found.value_counts().items())}")
    names = ["mechanism", "keyed_mechanism", "agrees", "lacks", "keyed_selectors", "roles_alone"]
    columns = ["seed", *names, "at_value", "at_key", *SHARES, "confirmed", "keyed", "roles"]
    text.append(markdown(columns, solved[columns].values.tolist()))
    return "\n\n".join(text)


DEPTH = 4
"""The furthest hop, of which alone `final` asks."""
UNNAMED = ("none", "other")
SHARES = {"kept": "kept without", "with_keys": "with keys", "with_others": "with another example's"}


def draw(tables: Tables) -> Any:
    """A point for each solved run: what selectors keep without keys, and with them or with those of another example."""
    from matplotlib.figure import Figure

    table = tables["scale-keys"]
    solved = table[table["solved"]]
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    style: dict[str, Any] = {"alpha": 0.7, "markeredgewidth": 0}
    for marker, (sweep, runs) in zip("os", solved.groupby("sweep", sort=False), strict=False):
        for name, colour in (("with_others", ORANGE), ("with_keys", BLUE)):
            arm = str(sweep).rpartition("-")[2]
            axes.plot(runs["kept"], runs[name], marker, color=colour, label=f"{SHARES[name]}, {arm}", **style)
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    for line in (axes.axhline, axes.axvline):
        line(BAR, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="share of the weakest answer kept by selectors", ylabel="the same with keys as sources")
    axes.legend(frameon=False, loc="lower right")
    plain(axes)
    return figure


CLAIM = Claim(__doc__, "scale-keys", ("scale-curriculum-cycle-chain", "scale-curriculum-cycle-final"), measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
