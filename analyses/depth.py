"""Depth against the bound: which hops are answered in how many layers, and is anything answered that cannot be?

    python analyses/depth.py                  # tables and figure from analyses/results/depth*.csv, seconds
    python analyses/depth.py --from-scratch   # with the sweeps, 24 runs of 2 to 5 minutes a core; then 2 minutes

The sweeps `depth-bidirectional` (a cycle of 8 symbols) and `depth-causal` (three chains of four, definitions first): hops 1 to
4, dense supervision, 1 to 4 layers of 2 heads, training seeds 0 to 2. The last snapshot of each run answers 4,096 fresh
examples (seed 3,000,003) at the query and at value slots. Columns of depth.csv:

`bound`     least layers by `theory.layers_needed`, which the simulation of `theory.least_layers` equals on these tasks
`guess`     the best of chance and the three guessers of `theory.guesses`, who have so many layers and do not know the chain
`order`     causal: the best guess of one who also knows, whatever that takes, how deep in its chain every symbol of the prefix
            stands (`assumption.py`): the order of definitions gives some chains away
`low`       Wilson's 99.9 % lower limit of the accuracy, each example counted once (its slots are not independent)
`verdict`   depth suffices: `answered` (99 % or more) or `not learnt`. It does not: `none` if `low` is at most `guess`, `order`
            if it is at most `order`, else `violation`

That depth is necessary is the claim; that it suffices is not, and `not learnt` says nothing against it. For violations
depth-violations.csv has what was measured about them: how well a linear probe reads the hop at this place after the embedding
and each layer, and the two cells (head, destination) whose ablation costs most of this answer, with what they look at (256
examples, seed 0); and the accuracy on 1,024 of the examples above if the heads of the first or the last layer attend only where
the theory lets them (`assumption.confined`), in brackets the least accuracy of the hops that depth allows and that are
answered.

Writes analyses/results/depth.csv, depth-violations.csv and depth.png.
"""

from functools import cache
from typing import Any

import pandas as pd
import torch
from assumption import Key, confined, order_guesses
from claims import KEPT, ORANGE, Claim, Run, Tables, kept_analysis, main, markdown, percent, span

from stackheads import load
from stackheads.labelling.readouts import make_scorer
from stackheads.labelling.statistics import wilson
from stackheads.models.hooks import analysing
from stackheads.models.trust import forward_for_training
from stackheads.seeds import Reserved, bare
from stackheads.tasks import StatementTask
from stackheads.theory import guesses, layers_needed
from stackheads.types import Destination

EXAMPLES, CHUNK = 4096, 1024
ANSWERED, CONFIDENCE = 0.99, 0.999
ODD = "violation"
SWEEPS = {"depth-bidirectional": "both ways", "depth-causal": "causal"}


def measure(runs: list[Run], workers: int) -> Tables:
    """A row for each run, destination and hop; and what can be said about violations."""
    table = pd.DataFrame([row for run in runs for row in depth_rows(run)])
    by_name = {(run.sweep, run.plan.name): run for run in runs}
    answered = table[table["verdict"] == "answered"]
    found = []
    for row in table[table["verdict"] == ODD].to_dict("records"):
        beside = answered[(answered["cell"] == row["cell"]) & (answered["sweep"] == row["sweep"])]
        allowed = beside.loc[beside["destination"] == row["destination"], "hop"].tolist()
        found.append(evidence(by_name[row["sweep"], row["cell"]], row, allowed))
    columns = ["sweep", "cell", "destination", "hop", "probe", "needs", "first_layer", "last_layer"]
    return {"depth": table, "depth-violations": pd.DataFrame(found, columns=columns)}


def depth_rows(run: Run) -> list[dict[str, Any]]:
    """One run against the bounds of its task."""
    checkpoint = load(run.folder)
    task, layers = checkpoint.task, checkpoint.config.layers
    return [{**run.names, "layers": layers, **row} for row in against_bounds(checkpoint.model, task, layers)]


def against_bounds(model: Any, task: StatementTask, layers: int, examples: int = EXAMPLES) -> list[dict[str, Any]]:
    """Accuracy, bound, best guesses and verdict for each destination and hop that is asked."""
    rows = []
    for (destination, hop), (accuracy, asked) in accuracies(model, task, examples).items():
        bound, key = layers_needed(hop, task.attention_dir, destination, task.period), (destination, hop, layers)
        allowed = bound is not None and layers >= bound
        guess = max(task.chance(hop), best_guesses(task).get(key, 0.0))
        order = None if allowed else order_guesses(task).get(key)
        low = wilson(round(accuracy * asked), asked, CONFIDENCE)[0]
        judged = {"verdict": verdict(allowed, accuracy, low, guess, order or 0.0)}
        row = {"destination": destination.value, "hop": hop, "bound": bound, "accuracy": accuracy, "low": low}
        row |= {"guess": guess, "order": order, "examples": asked}
        rows.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()} | judged)
    return rows


def verdict(allowed: bool, accuracy: float, low: float, guess: float, order: float) -> str:
    """What an accuracy says about the bound; see the module."""
    if allowed:
        return "answered" if accuracy >= ANSWERED else "not learnt"
    if low <= guess:
        return "none"
    return "order" if low <= order else ODD


@cache
def best_guesses(task: StatementTask) -> dict[Key, float]:
    """How often the best guesser is right, where the chain is not known."""
    return {(guess.destination, guess.hop, guess.layers): guess.share for guess in guesses(task) or []}


def accuracies(model: Any, task: StatementTask, examples: int) -> dict[tuple[Destination, int], tuple[float, int]]:
    """For each destination and hop the accuracy on fresh examples, and in how many of them it is asked."""
    generator, totals = bare(Reserved.DEPTH), {}
    with analysing(model):
        for start in range(0, examples, CHUNK):
            batch = task.sample(min(CHUNK, examples - start), generator)
            scorer = make_scorer(task, batch)
            right = scorer.score(forward_for_training(model)(batch.tokens)).right
            asked = scorer.summed(torch.ones_like(batch.targets, dtype=right.dtype))
            sums = torch.stack([right.sum(dim=0), asked.sum(dim=0), (asked > 0).sum(dim=0)], dim=1).double()
            for readout, part in zip(scorer.readouts, sums, strict=True):
                key = readout.destination, readout.hop
                totals[key] = totals.get(key, 0) + part
    return {key: (float(right / asked), int(n)) for key, (right, asked, n) in totals.items()}


def evidence(run: Run, row: dict[str, Any], allowed: list[int]) -> dict[str, Any]:
    """Where the answer can be read, what it needs, and what is left of it and of `allowed` hops if a layer is confined."""
    found = kept_analysis(run, KEPT)
    readout = f"hop {row['hop']} @{row['destination']}"
    probes = [at["accuracy"] for at in found.reach.to_dict("records") if at["destination"] == row["destination"]]
    effects = found.effects[(found.effects["readout"] == readout) & (found.effects["ablation"] == "resample")]
    looks = {(label["head"], label["destination"]): label for label in found.labels.to_dict("records")}
    cells = []
    for effect in effects.nlargest(2, "effect").to_dict("records"):
        label = looks[effect["head"], effect["destination"]]
        place = f"{effect['head']} @{effect['destination']} {effect['effect']:.2f}"
        cells.append(f"{place} ({label['looks_like']} {label['pattern']:.2f}, {label['status']})")
    checkpoint, left = load(run.folder), []
    for layer in (0, row["layers"] - 1):
        shares = confined(checkpoint.model, checkpoint.task, layer, CHUNK)
        others = [shares[Destination(row["destination"]), hop] for hop in allowed]
        mine = percent(shares[Destination(row["destination"]), row["hop"]])
        left.append(f"{mine} ({percent(min(others, default=None))})")
    names = {name: row[name] for name in ("sweep", "cell", "destination", "hop")}
    probe = " ".join("–" if accuracy.get(row["hop"]) is None else f"{accuracy[row['hop']]:.2f}" for accuracy in probes)
    return {**names, "probe": probe, "needs": "; ".join(cells), "first_layer": left[0], "last_layer": left[1]}


def tell(tables: Tables) -> str:
    """For each direction layers × hop; then what depth forbids, what was not learnt, and the evidence on violations."""
    table, text = tables["depth"], []
    for sweep, direction in SWEEPS.items():
        group = table[table["sweep"] == sweep]
        if len(group):
            text.append(f"## {direction}: median accuracy (%) and range over seeds, bold where depth suffices")
            text.append(_accuracy_table(group))
    text.append("## Verdicts: rows (run, destination, hop)")
    rows = []
    for (sweep, layers), group in table.groupby(["sweep", "layers"]):
        counts = group["verdict"].value_counts()
        forbidden = group[~group["verdict"].isin(("answered", "not learnt"))]
        over = (forbidden["accuracy"] - forbidden[["guess", "order"]].max(axis=1)).max()
        names = ("answered", "not learnt", "none", "order", ODD)
        excess = f"{over:+.3f}" if len(forbidden) else "–"
        rows.append([SWEEPS[sweep], layers, group["cell"].nunique(), *(counts.get(name, 0) for name in names), excess])
    header = ["attention", "layers", "runs", "answered", "not learnt", "none", "order", ODD]
    text.append(markdown([*header, "most above the best guess, where forbidden"], rows))
    text.append("## Answered though depth forbids it")
    text.append(_violation_table(tables) or "nothing")
    text.append("## Not learnt though depth suffices")
    missed = table[table["verdict"] == "not learnt"]
    rows = [
        [SWEEPS[sweep], layers, destination, hop, group["seed"].nunique(), span(group["accuracy"], percent)]
        for (sweep, layers, destination, hop), group in missed.groupby(["sweep", "layers", "destination", "hop"])
    ]
    text.append(markdown(["attention", "layers", "at", "hop", "runs", "accuracy (%)"], rows) if rows else "nothing")
    text.append("## Hops that are answered at the query in every run")
    rows = []
    for (sweep, layers), group in table[table["destination"] == "query"].groupby(["sweep", "layers"]):
        least = group.groupby("hop")["accuracy"].min()
        most = group.groupby("hop")["bound"].first()
        allowed = ", ".join(str(hop) for hop in most.index if most[hop] <= layers) or "none"
        done = ", ".join(str(hop) for hop in least.index if least[hop] >= ANSWERED) or "none"
        rows.append([SWEEPS[sweep], layers, group["cell"].nunique(), allowed, done])
    text.append(markdown(["attention", "layers", "runs", "allowed by the bound", "answered in every run"], rows))
    return "\n\n".join(text)


def _accuracy_table(group: pd.DataFrame) -> str:
    columns = [(destination, hop) for destination in ("query", "value") for hop in sorted(group["hop"].unique())]
    rows = []
    for layers, runs in group.groupby("layers"):
        row: list[Any] = [layers, runs["cell"].nunique()]
        for destination, hop in columns:
            at = runs[(runs["destination"] == destination) & (runs["hop"] == hop)]
            if not len(at):
                row.append("–")
                continue
            text = f"{percent(at['accuracy'].median())} ({span(at['accuracy'], percent)})"
            row.append(f"**{text}**" if at["bound"].iloc[0] <= layers else text)
        rows.append(row)
    return markdown(["layers", "runs", *(f"hop {hop} @{destination}" for destination, hop in columns)], rows)


def _violation_table(tables: Tables) -> str:
    keys = ["sweep", "cell", "destination", "hop"]
    odd = tables["depth"].merge(tables["depth-violations"], on=keys)
    rows = [
        [
            SWEEPS[row["sweep"]],
            row["layers"],
            row["seed"],
            f"hop {row['hop']} @{row['destination']}",
            row["bound"],
            percent(row["accuracy"]),
            percent(row["guess"]),
            percent(row["order"]),
            row["probe"],
            row["needs"],
            row["first_layer"],
            row["last_layer"],
        ]
        for row in odd.to_dict("records")
    ]
    header = ["attention", "layers", "seed", "answer", "bound", "accuracy (%)", "guess (%)", "order (%)"]
    header += ["probe after the embedding and each layer", "needs most", "first layer confined (%)", "last layer (%)"]
    return markdown(header, rows) if rows else ""


def draw(tables: Tables) -> Any:
    """Layers × hop for each direction and destination: median accuracy as colour and number; the line is the bound."""
    from matplotlib.figure import Figure

    table = tables["depth"]
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    panels = figure.subplots(2, 2)
    image = None
    for axes_row, (sweep, direction) in zip(panels, SWEEPS.items(), strict=True):
        for axes, destination in zip(axes_row, ("query", "value"), strict=True):
            group = table[(table["sweep"] == sweep) & (table["destination"] == destination)]
            axes.set_title(f"{direction}, at {'the query' if destination == 'query' else 'value slots'}", fontsize=10)
            if len(group):
                image = _draw_map(axes, group)
            else:
                axes.set_axis_off()
    if image is not None:
        bar = figure.colorbar(image, ax=panels, shrink=0.6, label="accuracy, median over seeds")
        bar.outline.set_visible(False)
    return figure


def _draw_map(axes: Any, group: pd.DataFrame) -> Any:
    layers, hops = range(1, int(group["layers"].max()) + 1), range(1, int(group["hop"].max()) + 1)
    by = group.groupby(["layers", "hop"])["accuracy"]
    grid = by.median().unstack().reindex(index=layers, columns=hops)
    image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (depth, hop), shares in by:
        middle = shares.median()
        text = (
            f"{middle:.2f}" if shares.max() - shares.min() < 0.01 else f"{middle:.2f}\n({shares.min():.2f}–{shares.max():.2f})"
        )
        colour = "black" if middle > 0.55 else "white"
        axes.text(hop - 1, depth - 1, text, ha="center", va="center", color=colour, fontsize=8)
    bounds = group.groupby("hop")["bound"].first()
    edges = [hop - 1.5 for hop in bounds.index] + [bounds.index[-1] - 0.5]
    axes.stairs([bound - 1.5 for bound in bounds], edges, baseline=None, color=ORANGE, linewidth=3)
    axes.set_xticks(range(len(hops)), [f"hop {hop}" for hop in hops])
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylabel("layers (line: least by the bound)", fontsize=9)
    axes.set(xlim=(-0.5, len(hops) - 0.5), ylim=(-0.5, len(layers) - 0.5))
    return image


CLAIM = Claim(__doc__, "depth", tuple(SWEEPS), measure, tell, draw, further=("depth-violations",))

if __name__ == "__main__":
    main(CLAIM)
