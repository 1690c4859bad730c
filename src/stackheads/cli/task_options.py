"""Options that describe a task beside its kind.

One that is not given is the task's default; one that a task has not is refused.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackheads.errors import ConfigError

if TYPE_CHECKING:
    from stackheads.tasks import StoredTask

TASKS = "cycle, retrieval, conditional, khop, graph, automaton, nearest, templates, binding, cases"
"""The kinds, written down here, since to import them takes longer than to help."""


def _option(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, show_default=False)


Hops = Annotated[
    int | None, _option("D, the number of hops asked for (4, or 1 where there are no more).", "--hops", "--max-hops")
]
Symbols = Annotated[
    int | None,
    _option("Symbols (2 D for a cycle, 4 for khop, 8 for graph and templates, 32 codes for nearest, else as needed)."),
]
Chains = Annotated[int | None, _option("Chains (retrieval: 3).")]
Context = Annotated[int | None, _option("Tokens in an example (khop and automaton: 32, graph: 20).")]
LanguageName = Annotated[str | None, _option("Regular language, parity say (automaton: flip-flop).")]
Kinds = Annotated[int | None, _option("Kinds of symbols (conditional: 2).")]
Layout = Annotated[
    str | None, _option("conditional: records or pages; templates: statements or pairs; nearest: pairs or statements.")
]
Graph = Annotated[str | None, _option("chain, tree or dag (graph: tree).")]
InDegree = Annotated[int | None, _option("Parents of a position (graph: 1).")]
GraphSeed = Annotated[int | None, _option("Seed of the latent tree or dag (graph: 0).")]
Noise = Annotated[float | None, _option("Share of symbols drawn evenly instead of by the rule (graph: 0.2).")]
Pairs = Annotated[int | None, _option("Pairs of a key and a value (nearest: 8, templates: 3), or strings with labels (cases).")]
Values = Annotated[int | None, _option("Values that there are (nearest: 8, templates: 4).")]
Functions = Annotated[int | None, _option("Functions, a multiple of --values (templates: 16).")]
TemplateSeed = Annotated[int | None, _option("Seed of the functions (templates: 0).")]
HeldOut = Annotated[float | None, _option("Share of functions' symbols never asked about (templates: 0).")]
Lines = Annotated[int | None, _option("Lines of a program (binding: 16).")]
Constants = Annotated[int | None, _option("Constants that there are (binding: 10).")]
Fresh = Annotated[float | None, _option("Probability that a line assigns a constant (binding: 0.4).")]
Growth = Annotated[int | None, _option("Exponent by which deep variables are assigned on rather than others (binding: 3).")]
DepthCase = Annotated[str | None, _option("memory, reasoning, template or template-in-context (cases: template).")]
Length = Annotated[int | None, _option("Symbols of a string (cases: 6, 1, 4 and 3 for the four).")]
Labels = Annotated[int | None, _option("Labels to choose from (cases: 4, of template-in-context 5).")]
Strings = Annotated[int | None, _option("Strings that are memorised (cases: 64 for memory).")]
Part = Annotated[str | None, _option("seen or unseen strings of templates (cases: seen).")]
CaseSeed = Annotated[int | None, _option("Seed of what is memorised or held out (cases: 0).")]
Order = Annotated[str | None, _option("definition-first (as retrieval has it), shuffled (as a cycle) or sorted.")]
AttentionDir = Annotated[
    str | None, _option("causal or bidirectional (cycle and conditional: bidirectional, all others: causal).")
]
Supervision = Annotated[
    str | None,
    _option("final, chain (implicit curriculum) or dense (dense where there is more to ask; nearest: final)."),
]


@dataclass(frozen=True)
class LinkOptions:
    """What describes a task of links beside its kind; none means the task's default."""

    hops: Hops = None
    symbols: Symbols = None
    chains: Chains = None
    order: Order = None
    attention_dir: AttentionDir = None

    def task(self, kind: str) -> "StoredTask":
        """The task that these options name. Raises `ConfigError`."""
        from stackheads.tasks import from_config

        given = {name: value for name, value in asdict(self).items() if value is not None}
        settings = {_setting(name, kind): value for name, value in given.items()}
        _refuse_others(kind, dict(zip(settings, given, strict=True)))
        return from_config({"kind": kind, **_defaults(kind, settings), **settings})


@dataclass(frozen=True)
class TaskOptions(LinkOptions):
    """What describes any task."""

    context: Context = None
    kinds: Kinds = None
    layout: Layout = None
    graph: Graph = None
    in_degree: InDegree = None
    graph_seed: GraphSeed = None
    noise: Noise = None
    language: LanguageName = None
    pairs: Pairs = None
    values: Values = None
    templates: Functions = None
    template_seed: TemplateSeed = None
    held_out: HeldOut = None
    lines: Lines = None
    constants: Constants = None
    fresh: Fresh = None
    growth: Growth = None
    case: DepthCase = None
    length: Length = None
    labels: Labels = None
    strings: Strings = None
    part: Part = None
    case_seed: CaseSeed = None
    supervision: Supervision = None


def _setting(option: str, kind: str) -> str:
    """What a task calls the setting of an option."""
    if option == "symbols" and kind == "binding":
        return "variables"
    return {"hops": "max_hops"}.get(option, option)


def _defaults(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """Of settings without a default, and where training from the command line has another than the task."""
    from stackheads.tasks import KINDS
    from stackheads.tasks.conditional import fewest_symbols
    from stackheads.tasks.depth_cases import SIZES

    fields = KINDS[kind].model_fields if kind in KINDS else {}
    found: dict[str, Any] = {} if _asks_once(kind, given) else {"supervision": "dense"}
    if "max_hops" in fields and fields["max_hops"].is_required():
        found["max_hops"] = 4
    found["attention_dir"] = "bidirectional" if kind in ("cycle", "conditional") else "causal"
    hops = given.get("max_hops", 4)
    of_kind: dict[str, dict[str, Any]] = {
        "cycle": {"symbols": 2 * hops},
        "conditional": {"symbols": fewest_symbols(hops, given.get("kinds", 2))} if kind == "conditional" else {},
        "khop": {"symbols": 4, "context": 32},
        "graph": {"symbols": 8, "context": 20},
        "automaton": {"context": 32, "language": "flip-flop"},
        "templates": {"symbols": 8},
        "cases": {"case": "template", **SIZES.get(given.get("case", "template"), {"symbols": 2})},
    }
    return found | of_kind.get(kind, {})


def _asks_once(kind: str, given: dict[str, Any]) -> bool:
    """Whether there is nothing to ask but the question at the query, unless more is said."""
    if kind == "cases":
        return given.get("case", "template") not in ("reasoning", "template-in-context")
    return kind == "nearest" or (kind == "templates" and given.get("layout") == "pairs")


def _refuse_others(kind: str, given: dict[str, str]) -> None:
    """Raise `ConfigError` for an option, given by its setting, that a kind of task has not."""
    from stackheads.tasks import KINDS

    for setting, option in given.items():
        if kind in KINDS and setting not in KINDS[kind].model_fields:
            having = [name for name, task in KINDS.items() if _setting(option, name) in task.model_fields]
            name = option.replace("_", "-")
            raise ConfigError(f"--{name} describes {', '.join(having)}, got task {kind}: leave it out")
