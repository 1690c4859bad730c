"""Verbs that look at trained models: analyze, emerge, validate."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stackheads.cli.options import Common, Device, Json, Quiet, Seed, with_options
from stackheads.cli.task_options import TASKS, TaskOptions
from stackheads.errors import ConfigError, StackheadsError

if TYPE_CHECKING:
    from stackheads.analysis import Analysis
    from stackheads.explanation.explained import Explained
    from stackheads.record import Missing
    from stackheads.trial.trial import Trial


TIMELINE = "timeline.png"
BUDGET = 4096
Further = dict[str, Any]
"""What is asked beside the labels, by its name in JSON."""


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


@dataclass(frozen=True)
class Wanted:
    """What is wanted beside the labels, and where it goes."""

    output_dir: Annotated[Path | None, typer.Option(help="Also save the analysis, and what else is wanted, as a folder.")] = (
        None
    )
    figures: Annotated[
        Path | None, typer.Option(help="Also write evidence, circuit and reach as PNG, SVG and PDF to this folder.")
    ] = None
    trial: Annotated[bool, typer.Option("--trial", help="Also put the labels on trial, on fresh examples.")] = False
    selectors: Annotated[
        bool, typer.Option("--selectors", help="Also say what every head looks at, as a sum of selectors.")
    ] = False
    fitted_to: Annotated[
        str, typer.Option(help="What --selectors fits: the answer, or each head's attention.", metavar="answer|attention")
    ] = "answer"
    carried: Annotated[
        bool, typer.Option("--carried", help="Also say what heads carry that matter and have no role, wherever they look.")
    ] = False
    html: Annotated[Path | None, typer.Option(help="Also write one offline HTML page to this file.")] = None

    def check(self, source: Path | None) -> None:
        """Raise `ConfigError` for what can't be written, or would replace the model itself, before the work."""
        from stackheads.explanation.measuring import FITTED_TO
        from stackheads.files import check_apart, check_file, check_folder
        from stackheads.record import FILE, FURTHER, TABLE
        from stackheads.report.figures import FILES

        if self.fitted_to not in FITTED_TO:
            raise ConfigError(f"--fitted-to is {' or '.join(FITTED_TO)}, got {self.fitted_to!r}: choose one of these")
        if self.fitted_to != FITTED_TO[0] and not self.selectors:
            raise ConfigError(
                f"--fitted-to says what selectors are fitted to, got {self.fitted_to} without them: add --selectors"
            )
        if self.output_dir is not None:
            check_folder(self.output_dir, FILE, (TABLE, *FURTHER))
        if self.html is not None:
            check_file(self.html)
        if self.figures is not None:
            check_folder(self.figures, files=FILES)
        check_apart(
            {
                "the model": _files_of(source),
                "--output-dir": [self.output_dir / name for name in (FILE, TABLE, *FURTHER)] if self.output_dir else [],
                "--figures": [self.figures / name for name in FILES] if self.figures else [],
                "--html": [self.html] if self.html else [],
            }
        )

    def write(self, analysis: "Analysis", further: Further) -> None:
        """Save what goes to files, the page last: only it may turn out to be too large."""
        from stackheads.explanation.explained import Explained
        from stackheads.files import write_json
        from stackheads.report.figures import save_figures

        if self.output_dir is not None:
            analysis.save(self.output_dir)
            for name, found in further.items():
                write_json(self.output_dir / f"{name}.json", found.to_dict())
        explained = further.get("selectors")
        if self.figures is not None:
            save_figures(analysis, self.figures, explained if isinstance(explained, Explained) else None)
        if self.html is not None:
            analysis.to_html(self.html, further.get("trial"), selectors=explained)


@with_options
def analyze(
    path: Annotated[Path | None, typer.Argument(help="A checkpoint or run folder, or --gpt2.", show_default=False)] = None,
    *,
    other: Gpt2Options,
    options: TaskOptions,
    examples: Annotated[
        str, typer.Option(help="Examples to measure on, or auto: from 512 on, until rows are decided.")
    ] = "auto",
    budget: Annotated[int, typer.Option(help="The most examples that auto may take.")] = BUDGET,
    wanted: Wanted,
    common: Common,
) -> None:
    """Label every head of a checkpoint and say which heads implement which hop.

    Of a GPT-2 on disk with --gpt2; --heads, --task and the task's options then say what a checkpoint knows.
    """
    from stackheads.analysis import analyze as run

    wanted.check(path or other.gpt2)
    number = _examples(examples)
    if number != "auto" and budget != BUDGET:
        raise ConfigError(f"--budget is for --examples auto, got {budget} with --examples {number}: leave one of them out")
    subject = _subject(path, other, options, common.device)
    asked: dict[str, Any] = {"examples": number, "budget": budget, "seed": common.seed, "carried": wanted.carried}
    analysis = run(**subject, **asked, progress=not common.quiet)
    further: Further = {}
    if wanted.trial:
        further["trial"] = _or_missing(lambda: analysis.trial(examples=512 if number == "auto" else number))
    if wanted.selectors:
        further["selectors"] = _or_missing(lambda: analysis.selectors(progress=not common.quiet, fitted_to=wanted.fitted_to))
    try:
        wanted.write(analysis, further)
    finally:  # what was found is said, whether it could be written or not
        _say(analysis, further, common.json)


def _or_missing(ask: Callable[[], "Trial | Explained"]) -> "Trial | Explained | Missing":
    """What is asked beside the labels, or why the model has none: the labels stand without it."""
    from stackheads.record import Missing

    try:
        return ask()
    except StackheadsError as error:
        return Missing(str(error))


def _say(analysis: "Analysis", further: Further, json: bool) -> None:
    import json as json_module

    from stackheads.record import Missing
    from stackheads.report.terminal import print_analysis, print_missing, print_selectors, print_trial

    if json:
        content = analysis.to_dict() | {name: found.to_dict() for name, found in further.items()}
        typer.echo(json_module.dumps(content, indent=2, allow_nan=False))
        return
    print_analysis(analysis)
    printers: dict[str, Any] = {"trial": print_trial, "selectors": print_selectors}
    for name, found in further.items():
        if isinstance(found, Missing):
            print_missing(name, found)
        else:
            printers[name](found)


def emerge(
    run: Annotated[Path, typer.Argument(help="A run folder with step-* snapshots.", show_default=False)],
    examples: Annotated[int, typer.Option(help="Examples to measure each snapshot on.")] = 512,
    seed: Seed = 0,
    device: Device = "cpu",
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
    found = emergence(run, examples=examples, seed=seed, device=device, progress=not quiet)
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
    check_apart({"--checkpoints": _files_of(checkpoints), **outputs})
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


def _files_of(source: Path | None) -> list[Path]:
    """The files that are read of a model, a run or a folder of them, there or not yet; of a snapshot also those of its run."""
    from stackheads.models.checkpoint import CONFIG, WEIGHTS, snapshots
    from stackheads.models.outside.weights import PICKLES, WHOLE
    from stackheads.sweeps.sweep import RESULT
    from stackheads.training.run import RunFolder

    if source is None:
        return []
    folder = source.resolve()
    run = RunFolder(folder.parent)
    if run.settings.exists() and folder in snapshots(run.path).values():
        folder = run.path
    names = {CONFIG, *WHOLE, run.settings.name, run.metrics.name, run.state.name, RESULT}
    endings = (Path(WEIGHTS).suffix, *PICKLES)  # of whole models and of their shards
    beside = folder.parent.glob("*") if folder.is_file() else folder.rglob("*")
    there = [path for path in beside if path.name in names or path.suffix in endings]
    return [*there, *((folder.parent if folder.is_file() else folder) / name for name in names)]


def _examples(text: str) -> int | Literal["auto"]:
    """A number of examples, or auto."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--examples is a number or auto, got {text!r}: correct it") from None


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
