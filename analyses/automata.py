"""Which regular languages does a small transformer learn, is its automaton extracted, and does it hold for longer strings?

    python analyses/automata.py                  # tables and figure from analyses/results/automata*.csv, seconds
    python analyses/automata.py --from-scratch   # with the sweep, 33 runs of half a minute on one core each

The sweep `automata`: the state after every prefix (`tasks.Automaton`) of strings of 16 symbols of eleven languages, 2 layers of
2 heads with MLPs and rotary positions, 600 steps, training seeds 0 to 2. Rotary positions are a matter of distances, so that
the same weights run in a context of 65 tokens, four times the strings of training.

Asked of each run, the answer being the likeliest state:
  within   the share of right states on 512 fresh strings of 16 symbols, at all prefixes; from 99 % the language is *solved*
  short    the share of right states on all strings of up to 12 symbols, each counted once: the prefixes of those of 12
  beyond   the share on 512 fresh strings of 64 symbols at prefixes of 17 to 64; from 99 % it *holds*
  near, far  of these, where one position decides, no further back than any in training (15), or further

An automaton is extracted by L* (`theory.extract`) and tried on all prefixes of 128 of the fresh strings of 16 symbols, or of
64. It is accepted where it agrees with the model on 99 % of them and given up beyond 16 states; it is *right* if it gives the
language's answers to every string (`theory.same`). By `states` the model is asked for its state, by `acceptance` only for
whether that state accepts, so that states must be told apart by what follows. All strings of a length would not do for trials:
a machine that accepts nothing agrees with 99 % of them where a language is sparse. The bars were set before any run was
measured.

The claim (Adriaensen & Maene, arXiv 2410.06045): trainable, and for long strings too, where finitely many symbols determine the
state. Ours: solved and held by family (`tasks/languages.py`), with Wilson's 95 % interval over runs – runs of one language are
alike, so that it is narrower than it should be – and held against extraction.

Writes analyses/results/automata.csv (a row for each run), automata-lengths.csv (by the length of the prefix) and automata.png.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from claims import GREY, Claim, Run, Tables, main, markdown, number, percent, plain, rate, span
from jaxtyping import Int
from torch import Tensor

from stackheads.models import Checkpoint, build, load, snapshots
from stackheads.seeds import Stream, stream
from stackheads.tasks import LANGUAGES, Automaton, Machine
from stackheads.theory import Extracted, extract, minimal, same
from stackheads.theory.machines import Word

EXAMPLES, TRIALS, AT_ONCE = 512, 128, 1024
LONGER = 4
SHORT = 12
"""The longest of the short strings."""
SOLVED = HOLDS = AGREEMENT = 0.99
MOST = 16
FAMILIES = ("reset", "star-free", "counting")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito: safe for the colour-blind


@dataclass
class Asked:
    """A model as a black box: the state it says after a word, asked once about each."""

    model: Any
    task: Automaton
    known: dict[Word, int] = field(default_factory=dict)

    def states(self, tokens: Int[Tensor, "string pos"]) -> Int[Tensor, "string pos"]:
        """The likeliest state after each prefix."""
        with torch.inference_mode():
            return torch.cat([self.model(some).argmax(dim=-1) for some in tokens.split(AT_ONCE)])

    def remember(self, tokens: Int[Tensor, "string pos"], states: Int[Tensor, "string pos"]) -> list[Word]:
        """Know the states of all prefixes of these strings. Returns the prefixes, as often as they stand there."""
        prefixes: list[Word] = []
        for string, said in zip(tokens[:, 1:].tolist(), states.tolist(), strict=True):
            of = [tuple(string[:length]) for length in range(len(said))]
            self.known |= zip(of, said, strict=True)
            prefixes += of
        return prefixes

    def __call__(self, words: Sequence[Word]) -> list[int]:
        new = [word for word in dict.fromkeys(words) if word not in self.known]
        if new:
            longest = max(map(len, new))  # what stands behind a word is not seen: causal attention
            rows = [[self.task.begin, *word, *[0] * (longest - len(word))] for word in new]
            said = self.states(torch.tensor(rows))
            self.known |= {word: int(states[len(word)]) for word, states in zip(new, said, strict=True)}
        return [self.known[word] for word in words]


def lengthened(checkpoint: Checkpoint, context: int) -> tuple[Any, Automaton]:
    """The same weights in a longer context, and the task there. The model's positions must be rotary, which have no weights."""
    assert isinstance(checkpoint.task, Automaton)
    assert checkpoint.config.positions == "rotary"
    task = checkpoint.task.model_copy(update={"context": context})
    model, weights = build(checkpoint.config, task), dict(checkpoint.model.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
    return model, task


def extracted(asked: Asked, trials: list[Word]) -> dict[str, tuple[Extracted, Machine]]:
    """By what is asked, the automaton that is extracted and the true one."""
    language, symbols = asked.task.spoken, asked.task.machine.symbols
    accepts = language.acceptor.answers
    boxes = {"states": asked, "acceptance": lambda words: [accepts[state] for state in asked(words)]}
    truths = {"states": language.machine, "acceptance": minimal(language.acceptor)}
    return {what: (extract(box, symbols, trials, AGREEMENT, MOST), truths[what]) for what, box in boxes.items()}


def every(task: Automaton, length: int = SHORT) -> Int[Tensor, "string pos"]:
    """All strings of a length, in the order of numbers whose digits their symbols are."""
    symbols = task.machine.symbols
    strings = torch.arange(symbols**length)[:, None] // symbols ** torch.arange(length - 1, -1, -1) % symbols
    return torch.cat([torch.full_like(strings[:, :1], task.begin), strings], dim=1)


def short(asked: Asked, length: int = SHORT) -> float:
    """The share of right states on all strings of up to a length, of which the first that begins with it stands for each."""
    tokens, symbols = every(asked.task, length), asked.task.machine.symbols
    right = asked.states(tokens) == asked.task.states(tokens)
    of_each = [right[:: symbols ** (length - at), at] for at in range(length + 1)]
    return torch.cat(of_each).double().mean().item()


def measure_run(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a run, and its rows by length."""
    checkpoint = load(snapshots(run.folder)[max(snapshots(run.folder))])
    trained = checkpoint.task
    assert isinstance(trained, Automaton)
    length = trained.context - 1
    model, task = lengthened(checkpoint, LONGER * length + 1)
    asked = Asked(model, task)
    fresh = trained.sample(EXAMPLES, stream(run.seed, Stream.AUTOMATA, "within", trained.language)).tokens
    long = task.sample(EXAMPLES, stream(run.seed, Stream.AUTOMATA, "beyond", trained.language)).tokens
    said = {name: asked.states(tokens) for name, tokens in (("within", fresh), ("beyond", long))}
    right = {name: said[name] == task.states(tokens) for name, tokens in (("within", fresh), ("beyond", long))}
    source, position = task.batch(long).find[:, 0], torch.arange(task.context)
    decided = (source >= 0) & (position > length)
    parts = {"near": decided & (position - source < length), "far": decided & (position - source >= length)}
    row = {
        **run.names,
        "language": trained.language,
        "family": trained.spoken.family,
        "within": right["within"][:, 1:].double().mean().item(),
        "short": short(asked),
        "beyond": right["beyond"][:, length + 1 :].double().mean().item(),
        **{name: right["beyond"][part].double().mean().item() for name, part in parts.items()},
    }
    trials = {
        name: asked.remember(tokens[:TRIALS], said[name][:TRIALS]) for name, tokens in (("within", fresh), ("beyond", long))
    }
    for strings, words in trials.items():
        for what, (found, truth) in extracted(asked, words).items():
            name = f"{strings}_{what}"
            row[f"{name}_found"] = found.machine.states if found.found and found.machine is not None else None
            row[f"{name}_right"] = found.found and found.machine is not None and same(found.machine, truth)
            row[f"{name}_agrees"] = found.agrees
    by_length = right["beyond"][:, 1:].double().mean(dim=0).tolist()
    names = {**run.names, "language": trained.language}
    return row, [{**names, "length": at, "right": share} for at, share in enumerate(by_length, start=1)]


def measure(runs: list[Run], jobs: int) -> Tables:
    """Every run, one after the other: seconds each."""
    torch.set_num_threads(1)
    found = [measure_run(run) for run in runs]
    table = pd.DataFrame([row for row, _ in found]).round(4)
    table = table.astype({name: "Int64" for name in table if name.endswith("_found")})
    lengths = pd.DataFrame([row for _, rows in found for row in rows]).round(4)
    return {"automata": table, "automata-lengths": lengths}


def verdicts(rows: pd.DataFrame, name: str) -> str:
    """Of each run whether the automaton is right, or how many states another one has; a dash where none was accepted."""
    told = zip(rows[f"{name}_right"], rows[f"{name}_found"], strict=True)
    return " ".join("right" if right else number(states) for right, states in told)


def tell(tables: Tables) -> str:
    """Languages, families, and extraction against length."""
    table = tables["automata"].sort_values(["language", "seed"])
    rows = []
    for language in LANGUAGES:
        some = table[table["language"] == language]
        if some.empty:
            continue
        shares = [" ".join(map(percent, some[name])) for name in ("within", "short", "beyond")]
        found = [verdicts(some, f"{strings}_{what}") for strings in ("within", "beyond") for what in ("states", "acceptance")]
        rows.append([f"`{language}`", LANGUAGES[language].machine.states, *shares, *found])
    shown = ["language", "states", "within (%)", "short (%)", "beyond (%)"]
    shown += [f"{strings}, by {what}" for strings in ("within", "beyond") for what in ("states", "acceptance")]
    solved, holds = table["within"] >= SOLVED, table["beyond"] >= HOLDS
    families = []
    for family in FAMILIES:
        of = table["family"] == family
        if of.any():
            counts = [rate(int((of & what).sum()), int(of.sum())) for what in (solved, table["within_states_right"], holds)]
            families.append([family, *counts, span(table.loc[of, "beyond"], percent)])
    headers = ["family", "solved", "right from strings of 16", "holds", "beyond, least to most (%)"]
    lines = []
    for name in ("within_states", "within_acceptance", "beyond_states", "beyond_acceptance"):
        right = table[f"{name}_right"]
        cells = (right & holds, right & ~holds, ~right & holds, ~right & ~holds)
        lines.append([name.replace("_", ", by "), *(int(cell.sum()) for cell in cells)])
    crossed = ["extracted from", "right, holds", "right, does not", "wrong or none, holds", "wrong or none, does not"]
    far = table[table["far"].notna()]
    near = [[f"`{row.language}`", row.seed, percent(row.near), percent(row.far)] for row in far.itertuples()]
    distances = markdown(["language", "seed", "decided near (%)", "decided far (%)"], near)
    return "\n\n".join([markdown(shown, rows), markdown(headers, families), markdown(crossed, lines), distances])


def draw(tables: Tables) -> Any:
    """The share of right states by length, a panel for each family; lines are means over seeds, bands least to most."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, len(FAMILIES), sharey=True)
    lengths, table = tables["automata-lengths"], tables["automata"]
    for axes, family in zip(panels, FAMILIES, strict=True):
        names = [name for name in LANGUAGES if name in set(table.loc[table["family"] == family, "language"])]
        for name, colour in zip(names, COLOURS, strict=False):
            by_length = lengths[lengths["language"] == name].groupby("length")["right"]
            axes.plot(by_length.mean(), color=colour, label=name)
            axes.fill_between(by_length.min().index, by_length.min(), by_length.max(), color=colour, alpha=0.15, linewidth=0)
        axes.axvline(lengths["length"].max() / LONGER, color=GREY, linestyle="--", linewidth=1)
        axes.set(title=family, xlabel="symbols read", ylim=(0, 1.02))
        axes.legend(frameon=False, loc="lower left", fontsize=8)
        plain(axes)
    panels[0].set_ylabel("share of right states")
    return figure


CLAIM = Claim(__doc__, "automata", ("automata",), measure, tell, draw, further=("automata-lengths",))

if __name__ == "__main__":
    main(CLAIM)
