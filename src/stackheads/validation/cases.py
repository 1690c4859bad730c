"""The cases on which ways of labelling are compared (`compared.py`): models of which it is known what every head looks at.

Plain compiled circuits come as they are and, with noise on their weights, blurred; others once without noise, once with it, and
once with it and blurred. What circuits are built on takes turns between the halves, so that none holds a copy of what the other
holds, and so do recipes of known trained models (`known.py`). Half of the guises have LayerNorm; those whose heads look at
several things have none, since through it what one head writes changes a little what all others do. Of programs that were drawn
at random (`drawn.py`) each member of a family comes once, and the program itself once more, blurred, with noise. Null heads are
those of untrained models, and of compiled circuits whose heads have their Q, K and V permuted.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from stackheads.models.protocol import Model
from stackheads.programs.heads import PLACES, Job
from stackheads.seeds import Stream, stream
from stackheads.tasks import Task
from stackheads.types import HeadId, Slot, Status
from stackheads.validation.blends import BLENDS, jobs_by_construction
from stackheads.validation.blurred import blurred
from stackheads.validation.compared import BLURRED, KNOWN, Result, result
from stackheads.validation.drawn import FAMILY, family, guise_of, is_drawn, name_of
from stackheads.validation.further import FURTHER
from stackheads.validation.known import known_folders, load_known, recipe_of
from stackheads.validation.nulls import ANSWERLESS, TAKEN_APART, Null, permuted_circuit, untrained
from stackheads.validation.other_tasks import OTHER_TASKS
from stackheads.validation.peers import CARRIES, RESTING, Cell, said_of
from stackheads.validation.peers import EXAMPLES as LABELLED
from stackheads.validation.rarely import RARELY
from stackheads.validation.specimens import CIRCUITS, Circuit, Guise, Specimen, specimen
from stackheads.validation.tabled import TABLED
from stackheads.validation.upheld import in_doubt, measured

NOISE = 0.1
LESS_NOISE: Mapping[str, float] = {"v: k hops": 0.05, "x: hop by asked": 0.05}
"""As much as the circuit still answers under."""
LARGE = "u: sixteen hops"
"""Left out: on enough of its examples all ways together take an hour and a half of a core, and ten gigabytes."""
ALL = {name: of for name, of in {**CIRCUITS, **BLENDS, **TABLED, **RARELY, **OTHER_TASKS, **FURTHER}.items() if name != LARGE}
LEFT_OPEN = ("g: diffuse", "h: ambiguous")
"""Two answers can be defended: a diffuse head looks at nothing, or most at hop 3; in a fixed layout two roles are one."""
SEVERAL = ("d: split", "i: two hops", "j: by symbol", "yd: split")
"""Decoys for one role a head that are heads in parts."""
SHARP = (*LEFT_OPEN, "j: by symbol", "t: never on")
"""Not blurred: not judged, or of heads that are off, which soft attention puts on."""
NULL_MODELS = 43
"""Of each kind: more than a thousand heads."""
GUISES = 3
"""Of each half of plain circuits; of others one. More narrow nothing: the interval is over what circuits are built on."""
FAMILIES = 20
"""Programs that are drawn, by seeds 0 to 19; another labeller should be judged on others."""
COLUMN_OF: Mapping[str, str] = {
    "itself": "clean",
    "in parts": "gated and mixed",
    "a decoy": "decoys",
    "another decoy": "decoys",
}
DOUBTING = 256
"""Examples on which it is asked whether what is said of a drawn circuit is so."""
EXAMPLES: Mapping[str, int] = {"v: k hops": 1024, "x: hop by asked": 1024}
"""More examples where each asks one of several hops."""


@dataclass(frozen=True)
class Case:
    """One case: its column, its circuit's or recipe's name, what that is built on, its half, and what it is made of: a guise of
    a circuit, a folder, a seed.
    """

    column: str
    name: str
    base: str
    half: int
    of: Guise | Path | int
    circuit: Circuit | None = None

    @property
    def model(self) -> str:
        """Which model of its circuit it is."""
        return f"{self.of.seed}-{self.of.noise}" if isinstance(self.of, Guise) else str(getattr(self.of, "name", self.of))

    @property
    def slug(self) -> str:
        """A file name."""
        return f"{self.column}-{self.name}-{self.model}".replace(" ", "_").replace(":", "")


def cases(known: Path | None = None) -> list[Case]:
    """All cases; with a folder of known trained models, these too."""
    found, circuits = [], {name: of() for name, of in ALL.items()}
    drawn = {name_of(seed, member): circuit for seed in range(FAMILIES) for member, circuit in family(seed).items()}
    built_on = {name: circuit.base or circuit.mechanism or name for name, circuit in (circuits | drawn).items()}
    bases = list(dict.fromkeys(built_on.values()))
    for number, (name, circuit) in enumerate(circuits.items()):
        plain = name in CIRCUITS and circuit.decoy is None
        where = name, built_on[name], bases.index(built_on[name]) % 2
        for variant in range(2 * GUISES if plain else 3):
            normalized = name in (*CIRCUITS, *FURTHER) and (number + variant) % 2
            guise = Guise(seed=1000 * number + variant, normalization="LN" if normalized else None)
            noisy = replace(guise, noise=LESS_NOISE.get(name, NOISE))
            if plain:
                found += [Case("clean", *where, guise, circuit), Case(BLURRED, *where, noisy, circuit)]
            elif variant < 2:
                found.append(Case(_column(name, circuit), *where, noisy if variant else guise, circuit))
            elif name not in SHARP:
                found.append(Case(BLURRED, *where, noisy, circuit))
    for seed, member in product(range(FAMILIES), FAMILY):
        name, guise = name_of(seed, member), guise_of(seed, member)
        where = name, built_on[name], bases.index(built_on[name]) % 2
        found.append(Case(COLUMN_OF[member], *where, guise, drawn[name]))
        if member == FAMILY[0]:
            found.append(Case(BLURRED, *where, replace(guise, noise=NOISE), drawn[name]))
    if known is not None:
        folders = known_folders(known)
        recipes = list(dict.fromkeys(recipe_of(path.name) for path in folders))
        names = [(recipe_of(path.name), path) for path in folders]
        found += [Case(KNOWN, name, name, recipes.index(name) % 2, path) for name, path in names]
    nulls = [(kind, seed) for kind in ("untrained", "permuted") for seed in range(NULL_MODELS)]
    return found + [Case("nulls", kind, kind, seed % 2, seed) for kind, seed in nulls]


def _column(name: str, circuit: Circuit) -> str:
    if name in SEVERAL or (circuit.decoy is None and name not in CIRCUITS):
        return "gated and mixed"
    return "clean" if circuit.decoy is None else "decoys"


def judged(case: Case) -> Result:
    """What is so and what every way says in one case. Cost: labels and selectors of one model."""
    one = subject(case)
    said = said_of(one.model, one.task, one.seed, EXAMPLES.get(case.name, LABELLED))
    return result(case.column, case.name, case.half, one.looks, one.allowed, said, case.model, case.base, one.doubt)


@dataclass(frozen=True)
class Subject:
    """A model with its task, what each head looks at where that is judged, what may be said as well, the examples' seed, and
    the cells that are left open since what is said of them is not clearly so.
    """

    model: Model
    task: Task
    looks: Mapping[Cell, set[str]]
    allowed: Mapping[Cell, set[str]]
    seed: int
    doubt: Collection[Cell] = ()


def subject(case: Case) -> Subject:
    """What a case is about."""
    if isinstance(case.of, Guise):
        assert case.circuit is not None, "a guise is that of a circuit"
        guise = blurred(case.name, case.circuit, case.of) if case.column == BLURRED else case.of
        made = specimen(case.name, case.circuit, guise)
        doubt = _doubt(made, guise.seed) if is_drawn(case.name) else set[Cell]()
        looks = {cell: some for cell, some in _built(made).items() if cell not in doubt}
        return Subject(made.model, made.task, looks, _kinds(made), guise.seed, doubt)
    if isinstance(case.of, Path):
        one = load_known(case.of)
        asked = {cell: truth for cell, truth in one.truth.items() if truth.status not in CARRIES or truth.role != RESTING}
        looks = {cell: {str(truth.role)} if truth.status in CARRIES else set[str]() for cell, truth in asked.items()}
        return Subject(one.model, one.task, looks, {}, 0)
    _, model, task = _null(case.name, case.of)
    heads = [HeadId(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    return Subject(model, task, {(head, place): set[str]() for head in heads for place in PLACES}, {}, case.of)


def _doubt(made: Specimen, seed: int) -> set[Cell]:
    """The cells that are not judged since what is said of them is not clearly so."""
    return in_doubt(made, measured(made, made.task.sample(DOUBTING, stream(seed, Stream.DRAWN))))


def _built(made: Specimen) -> dict[Cell, set[str]]:
    """What each head looks at by construction so that it matters; not of cells that are left open."""
    if made.name in LEFT_OPEN:
        return {}
    jobs = jobs_by_construction(made)
    looks = {cell: _looks(made, cell, jobs.get(cell, ())) for cell in made.truth}
    return {cell: some for cell, some in looks.items() if some is not None}


def _looks(made: Specimen, cell: Cell, jobs: Iterable[Job]) -> set[str] | None:
    """What one head looks at, None where that is left open or no way is asked."""
    truth, head = made.truth[cell], made.layers[cell[0].layer][cell[0].index]
    if cell[1] not in head.rows or truth.status in (Status.PATTERN_ONLY, Status.NONE):
        return set()
    said = {in_words(look) for look, _ in jobs} or ({str(truth.role)} if truth.role else set[str]())
    return None if said <= {str(RESTING)} else said


def _kinds(made: Specimen) -> dict[Cell, set[str]]:
    """The slots that each head was built to look at, beside what it matches there."""
    return {
        (HeadId(layer, index), place): {in_words(slot) for slot in head.sources}
        for layer, heads in enumerate(made.layers)
        for index, head in enumerate(heads)
        for place in head.rows
        if head.matches or head.preference
    }


def in_words(look: Any) -> str:
    """What a head looks at, as selectors say it."""
    return look.plural if isinstance(look, Slot) else str(look)


def _null(kind: str, seed: int) -> Null:
    """Tasks and circuits take turns."""
    if kind == "untrained":
        return untrained(ANSWERLESS[seed % len(ANSWERLESS)], seed)
    return permuted_circuit(TAKEN_APART[seed % len(TAKEN_APART)], seed)
