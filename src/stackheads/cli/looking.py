"""Verbs that look at trained models: analyze, emerge, validate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stackheads.cli.options import Common, Device, Json, Quiet, Seed, with_options
from stackheads.cli.outputs import Further, Wanted, files_of, or_missing, say
from stackheads.cli.task_options import TASKS, TaskOptions
from stackheads.errors import ConfigError

TIMELINE = "timeline.png"
KEYS = typer.Option("--keys", help="Key slots are sources, too (cycle, retrieval).")


@dataclass(frozen=True)
class Gpt2Options:
    """A GPT-2 on disk in place of a checkpoint, and the kind of its task, which no state dict tells."""

    gpt2: Annotated[
        Path | None, typer.Option(help="Instead: a GPT-2 or nanoGPT: a folder of save_pretrained, .safetensors or .pt.")
    ] = None
    heads: Annotated[
        int | None, typer.Option(help="Its heads in each layer, where no config.json says them (--gpt2).", show_default=False)
    ] = None
    activation: Annotated[str | None, typer.Option(help="Its activation, gelu_new say (--gpt2).", show_default=False)] = None
    epsilon: Annotated[float | None, typer.Option(help="Its LayerNorm's epsilon (--gpt2).", show_default=False)] = None
    unscaled: Annotated[bool, typer.Option("--unscaled", help="Its attention scores are not scaled (--gpt2).")] = False
    scaled_by_layer: Annotated[
        bool, typer.Option("--scaled-by-layer", help="Its scores are divided by the layer's number, too (--gpt2).")
    ] = False
    unembed: Annotated[str, typer.Option(help="How its outputs are read, tied or identity (--gpt2).")] = "tied"
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read .pt files; what they would run is refused.")] = (
        False
    )
    task: Annotated[str, typer.Option(help=f"Its task: {TASKS} (--gpt2).")] = ""


@with_options
def analyze(
    path: Annotated[Path | None, typer.Argument(help="A checkpoint or run folder, or --gpt2.", show_default=False)] = None,
    *,
    other: Gpt2Options,
    options: TaskOptions,
    examples: Annotated[
        str, typer.Option(help="Examples to measure on, or auto: from 512 on, until rows are decided.")
    ] = "auto",
    budget: Annotated[int | None, typer.Option(help="The most examples that auto may take.  [default: 4096]")] = None,
    keys: Annotated[bool, KEYS] = False,
    wanted: Wanted,
    common: Common,
) -> None:
    """Label every head of a checkpoint and say which heads implement which hop.

    Of a GPT-2 on disk with --gpt2; --heads, --task and the task's options then say what a checkpoint knows.
    """
    from stackheads.analysis import analyze as run

    wanted.check(path or other.gpt2)
    number = _examples(examples)
    if number != "auto" and budget is not None:
        raise ConfigError(f"--budget is for --examples auto, got {budget} with --examples {number}: leave one of them out")
    subject = _subject(path, other, options, common.device)
    if keys:
        subject = _with_keys(subject)
    asked: dict[str, Any] = {"examples": number, "seed": common.seed, "carried": wanted.carried}
    asked |= {} if budget is None else {"budget": budget}
    analysis = run(**subject, **asked, progress=not common.quiet)
    further: Further = {}
    if wanted.trial:
        further["trial"] = or_missing(lambda: analysis.trial(examples=512 if number == "auto" else number))
    if wanted.selectors:
        further["selectors"] = or_missing(lambda: analysis.selectors(progress=not common.quiet, fitted_to=wanted.fitted_to))
    try:
        wanted.write(analysis, further)
    finally:  # what was found is said, whether it could be written or not
        say(analysis, further, common.json)


def emerge(
    run: Annotated[Path, typer.Argument(help="A run folder with step-* snapshots.", show_default=False)],
    examples: Annotated[int, typer.Option(help="Examples to measure each snapshot on.")] = 512,
    seed: Seed = 0,
    device: Device = "cpu",
    keys: Annotated[bool, KEYS] = False,
    output_dir: Annotated[Path | None, typer.Option(help="Also write JSON, tables and the timeline figure here.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Follow a training run: at which snapshot does each hop, and each labelled head, appear?"""
    import json as json_module

    from stackheads.files import check_folder
    from stackheads.report.emergence import print_emergence
    from stackheads.report.figures import save_figure, timeline
    from stackheads.timeline.emergence import emergence
    from stackheads.timeline.result import FILES

    if output_dir is not None:
        check_folder(output_dir, files=(*FILES, TIMELINE))
    found = emergence(run, examples=examples, seed=seed, device=device, progress=not quiet, keys=keys)
    if output_dir is not None:
        found.save(output_dir)
        save_figure(timeline(found), output_dir / TIMELINE)
    if json:
        typer.echo(json_module.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        print_emergence(found)


def validate(
    quick: Annotated[bool, typer.Option("--quick", help="One guise for each circuit, fewer nulls: a minute.")] = False,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Also permute the heads of the checkpoints in this folder (nulls).")
    ] = None,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    keep: Annotated[Path | None, typer.Option(help="Keep each part in this folder, and go on from what is there.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON object to this file.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score the labeller on circuits whose labels are known, and on models that must get none. Status 1 if a bar is missed."""
    import json as json_module

    from stackheads.files import check_apart, check_file, check_folder, write_json
    from stackheads.limits import check_parallel
    from stackheads.report.validation import print_validation
    from stackheads.validation.kept import SETTINGS
    from stackheads.validation.nulls import permuted_checkpoints
    from stackheads.validation.validate import validate as run

    check_parallel("workers", workers, "processes")
    if output is not None:
        check_file(output)
    if keep is not None:
        check_folder(keep, SETTINGS, [SETTINGS])
    outputs = {"--keep": [keep / SETTINGS] if keep else [], "--output": [output] if output else []}
    check_apart({"--checkpoints": files_of(checkpoints), **outputs})
    nulls = permuted_checkpoints(checkpoints, seed)
    result = run(quick, seed, nulls, workers, progress=not quiet, folder=keep, about=checkpoints)
    if output is not None:
        write_json(output, result.to_dict())
    if json:
        typer.echo(json_module.dumps(result.to_dict(), indent=2))
    else:
        print_validation(result)
    if result.missed:
        raise typer.Exit(1)


def _examples(text: str) -> int | Literal["auto"]:
    """A number of examples, or auto."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--examples is a number or auto, got {text!r}: correct it") from None


def _with_keys(subject: dict[str, Any]) -> dict[str, Any]:
    """The same subject, its task with key slots as sources."""
    from stackheads.models import load, parse_device
    from stackheads.tasks import with_keys

    if "task" in subject:
        return {**subject, "task": with_keys(subject["task"])}
    checkpoint = load(subject["model"], parse_device(subject["device"]))
    return {"model": checkpoint, "task": with_keys(checkpoint.task)}


def _subject(path: Path | None, other: Gpt2Options, options: TaskOptions, device: str) -> dict[str, Any]:
    """What to analyse, as arguments of `analysis.analyze`: a checkpoint's path, or a GPT-2 with its task."""
    from stackheads.models import Gpt2Settings, load_gpt2

    if other.gpt2 is None:
        if path is None:
            raise ConfigError("analyze needs a model, got none: name a checkpoint or run folder, or give --gpt2 FILE")
        if (other, options) != (Gpt2Options(), TaskOptions()):
            raise ConfigError(f"{path} knows its heads and its task, got options of --gpt2 as well: leave them out")
        return {"model": path, "device": device}
    if path is not None:
        raise ConfigError(f"analyze takes one model, got {path} and --gpt2 {other.gpt2}: leave one out")
    if not other.task:
        raise ConfigError("a state dict does not tell its task, got no --task: add --task khop, say, and the task's options")
    task = options.task(other.task)
    settings = Gpt2Settings(other.heads, other.activation, other.epsilon, other.unscaled, other.scaled_by_layer)
    model = load_gpt2(other.gpt2, task, None, other.unembed, other.allow_pickle, device, settings)
    return {"model": model, "task": task}
