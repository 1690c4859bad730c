"""Do small transformers find which function pairs come from, and which of their heads compare pairs with templates?

    python analyses/templates.py                 # tables and figure from analyses/results/templates*.csv, seconds
    python analyses/templates.py --from-scratch  # trains and measures twelve models first, a quarter of an hour on one core

The claim of Yang et al. (arXiv 2408.10147): a transformer with one layer of several heads, trained on prompts of a few pairs
(x, f(x)), answers for symbols without a pair, since it has learned the functions that f can be. Their prompts hold a pair in
one column. Here f is one of `templates` functions (`tasks.Templates`); one, two and three layers read pairs of two tokens, one
layer reads pairs of one token, three training seeds each, which are also those of the functions (`recipes.contextual`). A tenth
of the combinations of a function and a symbol is never asked about in training.

Asked of each model, all fixed before these models were trained:

answers    `SOLVED` or more of fresh questions about symbols in none of the pairs. To be right that often takes all pairs:
           `guessers` says how many of the questions who knows all functions can answer from some of the pairs, `unpaired`
           how many who does not know which symbol and value belong together.
held out   the same of the combinations that were never asked about: the function is named by pairs, and what it says of the
           symbol was seen in pairs, never as an answer.
compares   by labels (confirmed or redundant): with two tokens a head looks from value slots at their key, `previous`, and one
           of a later layer from the query at all pairs, `hop 1`; with one token for a pair the second alone. Beside it stands
           what attention is without labels: the share of the query's on value slots, how even it is among them, and the share
           of value slots' on their key.
kept       of the answer `KEPT` or more, by labels alone and by selectors fitted to attention.

Asked after the first models had been measured: what tells which of the pairs the query looks at, `told_by` – the value, the
symbol, or both together.

Runs are written to runs/templates/ and resume, and so does measuring.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from claims import BLUE, GREEN, GREY, ORANGE, RECIPES, RESULTS, ROOT, markdown, percent, plain, rate
from recipes import Recipe, contextual
from tqdm import tqdm

from stackheads import Analysis, analyze
from stackheads.files import write_file
from stackheads.interventions import recorded
from stackheads.models import Checkpoint
from stackheads.models.hooks import analysing
from stackheads.report.figures import save_figure
from stackheads.seeds import Stream, stream
from stackheads.tables import records, role_of
from stackheads.tasks import Batch, Templates, labelling_batch
from stackheads.tasks.scoring import query_accuracy
from stackheads.training.trainer import train
from stackheads.types import HeadId, Status
from stackheads.validation.kept import keeping, kept

NAME = "templates"
RUNS, MEASURED = ROOT / "runs" / NAME, ROOT / "runs" / f"{NAME}-measured"
FAMILIES: dict[str, tuple[int, Literal["statements", "pairs"]]] = {
    "one token, 1 layer": (1, "pairs"),
    "two tokens, 1 layer": (1, "statements"),
    "two tokens, 2 layers": (2, "statements"),
    "two tokens, 3 layers": (3, "statements"),
}
SEEDS = 3
EXAMPLES, QUESTIONS, LOOKED_AT = 512, 4096, 2048
SOLVED, KEPT = 0.95, 0.9
HELD = (Status.CONFIRMED, Status.REDUNDANT)


def recipe_of(family: str, seed: int) -> Recipe:
    """That of one family and seed."""
    layers, layout = FAMILIES[family]
    return contextual(layers, layout, seed)


def trained(family: str, seed: int) -> Checkpoint:
    """The model of one family and seed, trained unless its run is there."""
    (layers, layout), recipe = FAMILIES[family], recipe_of(family, seed)
    run = RUNS / f"{layout}-l{layers}-{seed}"
    return train(recipe.task, recipe.model, recipe.training, run, progress=False, resume=True)


def questions(task: Templates) -> Batch:
    """Fresh examples, of this use alone."""
    return task.sample(QUESTIONS, stream(0, Stream.TEMPLATES, "asked"))


def right(model: Any, task: Templates) -> float:
    """The share of fresh questions that a model answers."""
    batch = questions(task)
    with analysing(model), torch.no_grad():
        return query_accuracy(task, model(batch.tokens), batch)[1]


def guessers(task: Templates) -> list[float]:
    """The most that can be right by 0, 1, … pairs, the last ones: of the templates that agree with these, what most say."""
    batch = questions(task)
    shown, value = task.read(batch.tokens)
    said = torch.tensor(task.functions).T[shown]  # [example, asked, template]
    shares = []
    for pairs in range(task.pairs + 1):
        first = task.pairs - pairs
        left = (said[:, first:-1] == value[:, first:, None]).all(dim=1)
        shares.append(_best(said[:, -1], left, task.values))
    return shares


def unpaired(task: Templates) -> float:
    """The most that can be right by which symbols and which values stand in the pairs, not which of them belong together."""
    batch = questions(task)
    shown, value = task.read(batch.tokens)
    said = torch.tensor(task.functions).T[shown]
    left = (said[:, :-1].sort(dim=1).values == value.sort(dim=1).values[..., None]).all(dim=1)
    return _best(said[:, -1], left, task.values)


def _best(said: torch.Tensor, left: torch.Tensor, values: int) -> float:
    """The share that is right by answering what most of the templates that are left say, [example, template] both."""
    votes = torch.nn.functional.one_hot(said, values) * left[..., None]
    counts = votes.sum(dim=1).double()
    return (counts.amax(dim=1) / counts.sum(dim=1)).mean().item()


def looks(model: Any, task: Templates) -> list[dict[str, Any]]:
    """What each head's attention is: from the query on value slots, how even among them, and from value slots on their key.

    Even: the entropy among value slots as a share of that of looking at all alike, 0 at one alone, 1 at all.
    """
    with analysing(model):
        clean = recorded(model, labelling_batch(task, EXAMPLES, 0))
    values, rows = torch.tensor(task.value_slots), []
    for layer, pattern in enumerate(clean.run.pattern):  # [example, head, pos, source]
        for head in range(pattern.shape[1]):
            mine = pattern[:, head]
            at_pairs = mine[:, -1, values].double()
            among = at_pairs / at_pairs.sum(dim=1, keepdim=True)
            entropy = torch.special.entr(among).sum(dim=1) / torch.tensor(float(task.pairs)).log()
            keys = mine[:, values, values - 1].mean().item() if task.layout == "statements" else None
            row = {"pairs @query": at_pairs.sum(dim=1).mean().item(), "even @query": entropy.mean().item()}
            rows.append({"head": str(HeadId(layer, head)), **row, "own key @value": keys})
    return rows


def told_by(model: Any, task: Templates) -> list[dict[str, float]]:
    """For each head how much of which pairs the query looks at is told by what these are: the share of the variance of
    attention among value slots that is explained by their value, by the symbol beside it, and by both together, as means of
    every other example say of the rest. Below zero: worse than the mean of all.
    """
    batch = labelling_batch(task, LOOKED_AT, 0)
    with analysing(model):
        clean = recorded(model, batch)
    shown, value = task.read(batch.tokens)
    codes = {"value": value, "symbol": shown[:, :-1], "pair": shown[:, :-1] * task.values + value}
    rows = []
    for each in clean.run.pattern.transpose(1, 2).flatten(0, 1)[:, :, -1, task.value_slots].double():  # [example, pair]
        among = each / each.sum(dim=1, keepdim=True)
        rows.append({f"by {name}": explained(among, code) for name, code in codes.items()})
    return rows


def explained(among: torch.Tensor, code: torch.Tensor) -> float:
    """The share of the variance of every second row that the means of the others, by code, explain."""
    mine, other = (among[start::2].flatten() for start in (1, 0))
    kinds, n = code[1::2].flatten(), int(code.max()) + 1
    means = torch.zeros(n, dtype=among.dtype).index_add(0, code[0::2].flatten(), other)
    means = means / code[0::2].flatten().bincount(minlength=n).clamp(min=1)
    return 1 - ((mine - means[kinds]).square().sum() / (mine - other.mean()).square().sum()).item()


def labelled(analysis: Analysis, destination: str, role: str) -> list[str]:
    """The heads that have a role at a destination, at some gate or always."""
    rows = [row for row in records(analysis.labels) if row["status"] in HELD and row["destination"] == destination]
    return sorted({row["head"] for row in rows if row["role"] == role})


def measured(family: str, seed: int) -> Any:
    """Two tables of one model: a row for it, and one for each head."""
    loaded = trained(family, seed)
    task: Any = loaded.task
    analysis = analyze(loaded, examples=EXAMPLES, explain=False, progress=False)
    by_labels, by_selectors, count = None, None, None
    if analysis.readouts["open"].any():  # of a model that answers nothing there is nothing to explain
        by_labels = analysis.trial(examples=EXAMPLES).recovered().get(1)
        selected = analysis.selectors(examples=EXAMPLES // 2, fitted_to="attention", progress=False)
        by_selectors, count = selected.worst, len(selected.table)
    named = {"model": family, "seed": seed}
    pairing, gathering = labelled(analysis, "value", "previous"), labelled(analysis, "query", "hop")
    row = {
        **named,
        "answers": right(loaded.model, task),
        "held out": right(loaded.model, task.model_copy(update={"asks_held": True})),
        "pairing": " ".join(pairing),
        "gathering": " ".join(gathering),
        "compares": int(compares(task, pairing, gathering)),
        "labels keep": by_labels,
        "selectors keep": by_selectors,
        "selectors": count,
        **{f"by {pairs} pairs": share for pairs, share in enumerate(guessers(task))},
    }
    labels = records(analysis.labels)
    heads = []
    for each in looks(loaded.model, task):
        told = [label for label in labels if label["head"] == each["head"] and label["status"] in HELD]
        texts = {place: said(told, place) for place in ("query", "value")}
        heads.append({**named, **each, **{f"label @{place}": text for place, text in texts.items()}})
    return [[row], heads]


def said(labels: list[dict[str, Any]], destination: str) -> str:
    """What confirmed and redundant labels of a head say at a destination."""
    rows = [row for row in labels if row["destination"] == destination]
    gates = ["" if row["gate"] is None else f" when {row['gate']}" for row in rows]
    return "; ".join(f"{role_of(row)}{gate}" for row, gate in zip(rows, gates, strict=True))


def compares(task: Templates, pairing: list[str], gathering: list[str]) -> bool:
    """Whether heads make pairs, and others look at all of them."""
    if task.layout == "pairs":
        return bool(gathering)
    layers = [HeadId.parse(head).layer for head in pairing]
    return bool(layers) and any(HeadId.parse(head).layer > min(layers) for head in gathering)


def table(models: pd.DataFrame) -> str:
    """A line for each model, one for each family, and what some of the pairs tell."""
    lines, pooled = [], []
    for row in records(models):
        kept = ("–" if pd.isna(row[name]) else f"{row[name]:.2f}" for name in ("labels keep", "selectors keep"))
        heads = (row[name] if isinstance(row[name], str) and row[name] else "none" for name in ("pairing", "gathering"))
        lines.append([row["model"], row["seed"], percent(row["answers"]), percent(row["held out"]), *heads, *kept])
    header = ["pairs", "seed", "answers (%)", "held out (%)", "pairing", "gathering", "labels keep", "selectors keep"]
    for family, group in models.groupby("model", sort=False):
        n = len(group)
        solved, held = ((group[name] >= SOLVED).sum() for name in ("answers", "held out"))
        by = [int((group[name] >= KEPT).sum()) for name in ("labels keep", "selectors keep")]
        pooled.append([family, *(rate(int(number), n) for number in (solved, held, group["compares"].sum(), *by))])
    names = ["pairs", "answer", "answer what was held out", "compare, by labels", "labels keep 0.9", "selectors keep 0.9"]
    shares = [name for name in models if name.startswith("by ")]
    guesses = [[percent(models[name].min()), percent(models[name].max())] for name in shares]
    told = [[name.removeprefix("by "), *guess] for name, guess in zip(shares, guesses, strict=True)]
    parts = (
        markdown(names, pooled),
        markdown(header, lines),
        markdown(["who knows all functions and reads", "least (%)", "most (%)"], told),
    )
    return "\n\n".join(parts)


def table_of_heads(heads: pd.DataFrame) -> str:
    """A line for each head that is labelled as looking at all pairs from the query."""
    looking = heads[heads["label @query"].fillna("").str.contains("hop 1")]
    names = ["pairs @query", "even @query", "by value", "by symbol", "by pair"]
    lines = [[row["model"], row["seed"], row["head"], *(f"{row[name]:.2f}" for name in names)] for row in records(looking)]
    return markdown(["pairs", "seed", "head", "on pairs", "even", *names[2:]], lines)


def draw(models: pd.DataFrame, heads: pd.DataFrame) -> Any:
    """Left, what models answer; right, each head's attention from the query on pairs, and from value slots on their key."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right_ax = figure.subplots(1, 2)
    for number, family in enumerate(FAMILIES):
        mine = models[models["model"] == family]
        for name, colour, shift in (("answers", BLUE, -0.1), ("held out", ORANGE, 0.1)):
            at = [number + shift] * len(mine)
            left.scatter(at, 100 * mine[name], color=colour, label=name if number == 0 else None, s=24)
    left.axhline(100 * SOLVED, color=GREY, linestyle="--", linewidth=1)
    for name in ("by 0 pairs", "by 1 pairs", "by 2 pairs", "by all, unpaired"):
        left.axhline(100 * models[name].mean(), color=GREY, linestyle=":", linewidth=1)
        left.text(3.45, 100 * models[name].mean(), f"by {name[3:]}", fontsize=7, va="bottom", ha="right")
    left.set_xticks(range(len(FAMILIES)), [family.replace(", ", ",\n") for family in FAMILIES], fontsize=8)
    left.set_ylabel("right answers (%)")
    left.set_ylim(0, 102)
    left.legend(fontsize=8, loc="center left")
    colours = dict(zip(FAMILIES, (ORANGE, GREY, BLUE, GREEN), strict=True))
    for family, colour in colours.items():
        mine = heads[(heads["model"] == family) & heads["own key @value"].notna()]
        if mine.empty:  # pairs of one token have no key
            continue
        right_ax.scatter(mine["own key @value"], mine["pairs @query"], color=colour, label=family, s=24)
    plain(left)
    plain(right_ax)
    left.xaxis.set_major_formatter(lambda value, _: list(FAMILIES)[round(value)].replace(", ", ",\n"))
    right_ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right_ax.set_xlabel("attention of value slots on their own key")
    right_ax.set_ylabel("attention of the query on value slots")
    right_ax.legend(fontsize=8)
    return figure


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="train and measure first, and write the tables")
    arguments = parser.parse_args()
    paths = [RESULTS / f"{NAME}.csv", RESULTS / f"{NAME}-heads.csv"]
    if arguments.from_scratch:
        torch.set_num_threads(1)
        models = list(product(FAMILIES, range(SEEDS)))
        keeping(MEASURED, {"examples": EXAMPLES, "questions": QUESTIONS}, Path(__file__), RECIPES)
        parts = [kept(MEASURED, f"{family}-{seed}", measured, family, seed) for family, seed in tqdm(models, disable=None)]
        for (family, seed), ([row], heads) in zip(tqdm(models, disable=None), parts, strict=True):
            loaded = trained(family, seed)
            task: Any = loaded.task
            row["by all, unpaired"] = unpaired(task)
            for head, told in zip(heads, told_by(loaded.model, task), strict=True):
                head |= told
        for path, tables in zip(paths, zip(*parts, strict=True), strict=True):
            frame = pd.DataFrame([row for one in tables for row in one])
            write_file(path, lambda temporary, frame=frame: frame.round(4).to_csv(temporary, index=False))
    models, heads = map(pd.read_csv, paths)
    print(f"{table(models)}\n\n{table_of_heads(heads)}")
    save_figure(draw(models, heads), RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
