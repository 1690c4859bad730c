"""Options that verbs share."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from stackheads.limits import check_parallel

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


@dataclass(frozen=True)
class Common:
    """What every verb that computes takes."""

    seed: Seed = 0
    device: Device = "cpu"
    json: Json = False
    quiet: Quiet = False


def use_threads(threads: int) -> None:
    """Compute with this many CPU threads. Raises `ConfigError` if there can't be so many."""
    import torch

    check_parallel("threads", threads, "cores to use")
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
