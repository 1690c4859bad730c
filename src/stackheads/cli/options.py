"""Options that verbs share, and the task that they name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from stackheads.errors import ConfigError

if TYPE_CHECKING:
    from stackheads.tasks import StoredTask

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Hops = Annotated[int, typer.Option("--hops", "--max-hops", help="D, the number of hops asked for.")]
TaskHops = Annotated[
    int | None,
    typer.Option(
        "--hops", "--max-hops", help="D, the number of hops asked for: 4, of graph, automaton and cases 1.", show_default=False
    ),
]
Symbols = Annotated[
    int,
    typer.Option(help="Symbols; 0: 2 D for a cycle, 4 for khop, 8 for graph, as needed for retrieval, by case for cases."),
]
Chains = Annotated[int, typer.Option(help="Chains (retrieval).")]
Context = Annotated[int, typer.Option(help="Tokens in an example; 0: 32 for khop and automaton, 20 for graph.")]
LanguageName = Annotated[str, typer.Option(help="Regular language, flip-flop or parity say (automaton).")]
Kinds = Annotated[int, typer.Option(help="Kinds of symbols (conditional).")]
Layout = Annotated[str, typer.Option(help="records or pages (conditional).")]
Graph = Annotated[str, typer.Option(help="chain, tree or dag (graph).")]
InDegree = Annotated[int, typer.Option(help="Parents of a position (graph).")]
GraphSeed = Annotated[int, typer.Option(help="Seed of the latent tree or dag (graph).")]
Noise = Annotated[float, typer.Option(help="Share of symbols drawn evenly instead of by the rule (graph).")]
DepthCase = Annotated[str, typer.Option(help="memory, reasoning, template or template-in-context (cases).")]
Length = Annotated[int, typer.Option(help="Symbols of a string (cases); 0: 6, 1, 4 and 3 for the four cases.")]
Pairs = Annotated[int, typer.Option(help="Strings with labels before the last one (cases); 0: 8 and 6 for those in context.")]
Labels = Annotated[int, typer.Option(help="Labels to choose from (cases); 0: 4, in template-in-context 5.")]
Strings = Annotated[int, typer.Option(help="Strings that are memorised (cases); 0: 64.")]
Part = Annotated[str, typer.Option(help="Strings to draw, seen or unseen (cases, templates).")]
CaseSeed = Annotated[int, typer.Option(help="Seed of what is memorised or held out (cases).")]
Order = Annotated[
    str, typer.Option(help="definition-first (default) or shuffled for retrieval; shuffled (default) or sorted for a cycle.")
]
AttentionDir = Annotated[
    str, typer.Option(help="causal or bidirectional; default bidirectional for cycle and conditional, else causal.")
]
Supervision = Annotated[str, typer.Option(help="final, chain (implicit curriculum) or dense.")]


@dataclass(frozen=True)
class Common:
    """What every verb that computes takes."""

    seed: Seed = 0
    device: Device = "cpu"
    json: Json = False
    quiet: Quiet = False


@dataclass(frozen=True)
class TaskOptions:
    """What describes a task beside its kind; none, 0 and empty mean the task's default."""

    hops: TaskHops = None
    symbols: Symbols = 0
    chains: Chains = 3
    context: Context = 0
    kinds: Kinds = 2
    layout: Layout = "records"
    graph: Graph = "tree"
    in_degree: InDegree = 1
    graph_seed: GraphSeed = 0
    noise: Noise = 0.2
    order: Order = ""
    attention_dir: AttentionDir = ""
    supervision: Supervision = "dense"
    language: LanguageName = "flip-flop"
    case: DepthCase = "template"
    length: Length = 0
    pairs: Pairs = 0
    labels: Labels = 0
    strings: Strings = 0
    part: Part = "seen"
    case_seed: CaseSeed = 0

    def task(self, kind: str) -> "StoredTask":
        """The task that these options name. Raises `ConfigError`."""
        from stackheads.tasks import from_config
        from stackheads.tasks.conditional import fewest_symbols
        from stackheads.tasks.depth_cases import SIZES

        hops = self.hops if self.hops is not None else 1 if kind in ("graph", "automaton", "cases") else 4
        settings: dict[str, Any] = {
            "kind": kind,
            "max_hops": hops,
            "supervision": self.supervision,
            "attention_dir": self.attention_dir or ("bidirectional" if kind in ("cycle", "conditional") else "causal"),
        }
        if self.order:
            settings["order"] = self.order
        if kind == "retrieval":
            settings |= {"chains": self.chains, "symbols": self.symbols}
        elif kind == "conditional":
            fewest = self.symbols or fewest_symbols(hops, self.kinds)
            settings |= {"kinds": self.kinds, "layout": self.layout, "symbols": fewest}
        elif kind == "khop":
            settings |= {"symbols": self.symbols or 4, "context": self.context or 32}
        elif kind == "graph":
            settings |= {"symbols": self.symbols or 8, "context": self.context or 20, "noise": self.noise}
            settings |= {"graph": self.graph, "in_degree": self.in_degree, "graph_seed": self.graph_seed}
        elif kind == "automaton":
            settings |= {"language": self.language, "context": self.context or 32}
        elif kind == "cases":
            given = {name: getattr(self, name) for name in ("symbols", "length", "pairs", "labels", "strings")}
            settings |= SIZES.get(self.case, {"symbols": self.symbols}) | {name: size for name, size in given.items() if size}
            settings |= {"case": self.case, "part": self.part, "case_seed": self.case_seed}
        else:
            settings["symbols"] = self.symbols or 2 * hops
        return from_config(settings)


def use_threads(threads: int) -> None:
    """Compute with this many CPU threads. Raises `ConfigError` if there are none."""
    import torch

    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}: give the number of cores to use")
    torch.set_num_threads(threads)


def options_of(config: type[BaseModel]) -> Any:
    """A dataclass of options, one for each setting of a configuration that has a description, with its default."""
    rows: list[Any] = []
    for name, setting in config.model_fields.items():
        if setting.description:
            names = [f"--{name.replace('_', '-')}"] if setting.annotation is bool else []
            option = typer.Option(*names, help=setting.description)
            rows.append((name, Annotated[setting.annotation, option], setting.default))
    return make_dataclass(f"{config.__name__}Options", rows, frozen=True)


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as Typer sees it: in the place of a parameter that is a dataclass of options stands one for each field."""
    ours = inspect.signature(verb).parameters
    groups: dict[str, Any] = {name: each.annotation for name, each in ours.items() if is_dataclass(each.annotation)}

    def spread(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group) if field.name in given})
        verb(**given)

    shown = [inspect.signature(groups[name]).parameters.values() if name in groups else [each] for name, each in ours.items()]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for several in shown for each in several]
    spread.__name__, spread.__doc__ = verb.__name__, verb.__doc__
    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return spread
