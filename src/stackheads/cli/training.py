"""Verbs that make models: train, sweep."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stackheads.cli.options import Common, options_of, use_threads, with_options
from stackheads.cli.task_options import TASKS, TaskOptions
from stackheads.errors import ConfigError
from stackheads.training.config import TrainingConfig

TrainingOptions = options_of(TrainingConfig)
Threads = Annotated[int, typer.Option(help="CPU threads; resuming bit for bit needs the same number.")]


@dataclass(frozen=True)
class ModelOptions:
    """Sizes of the model."""

    layers: Annotated[int, typer.Option(help="Layers.")] = 3
    heads: Annotated[int, typer.Option(help="Heads in each layer.")] = 2
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.")] = 64
    d_head: Annotated[int, typer.Option(help="Width of a head.")] = 16
    mlp: Annotated[bool, typer.Option("--mlp", help="Add MLPs.")] = False

    def settings(self) -> dict[str, Any]:
        """As `ModelConfig` takes them."""
        sizes = asdict(self)
        mlp = sizes.pop("mlp")
        return {**sizes, "attn_only": not mlp}


@dataclass(frozen=True)
class RunOptions:
    """How a run is made."""

    threads: Threads = 1
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False


@dataclass(frozen=True)
class SweepOptions:
    """Where the runs of a sweep are trained."""

    workers: Annotated[int, typer.Option(help="Processes.")] = 2
    ray: Annotated[str, typer.Option(help="Address of a Ray cluster to run on instead; auto: the one here.")] = ""
    threads: Annotated[int, typer.Option(help="CPU threads of each run.")] = 1


@with_options
def train(
    task: Annotated[str, typer.Argument(help=f"{TASKS}.", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="The run folder to write.", show_default=False)],
    options: TaskOptions,
    sizes: ModelOptions,
    training: TrainingOptions,  # pyright: ignore[reportInvalidTypeForm, reportUnknownParameterType]
    how: RunOptions,
    common: Common,
) -> None:
    """Train a model on a task and write a run folder with its snapshots."""
    from stackheads.files import check_folder
    from stackheads.models import ModelConfig
    from stackheads.training.trainer import train as run

    use_threads(how.threads)
    if training.sharpen_from and not (training.entropy or training.loudness or how.resume):  # an old run may have been begun so
        rule = f"--sharpen-from says when entropy and loudness begin to count, got {training.sharpen_from} without them"
        raise ConfigError(f"{rule}: add --entropy or --loudness, or leave it out")
    check_folder(output_dir)
    chosen: dict[str, Any] = {**asdict(training), "seed": common.seed}
    checkpoint = run(
        options.task(task),
        ModelConfig(**sizes.settings()),
        TrainingConfig(**chosen),
        output_dir=output_dir,
        device=common.device,
        progress=not common.quiet,
        resume=how.resume,
    )
    accuracy = checkpoint.metrics["accuracy"]
    if common.json:
        import json as json_module

        typer.echo(json_module.dumps({"run": str(output_dir), **checkpoint.metrics}))
    else:
        shares = "  ".join(f"{hop}: {share:.1%}" for hop, share in accuracy.items())
        typer.echo(f"{output_dir}: accuracy per hop on {checkpoint.metrics['examples']} fresh examples\n{shares}")


@with_options
def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep's YAML file.", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="The sweep's folder; one begun goes on.", show_default=False)],
    where: SweepOptions,
    common: Common,
) -> None:
    """Train a grid of models; killed at any point, the same command goes on. Status 1 if a run fails."""
    import json as json_module

    from stackheads.report.sweep import print_sweep
    from stackheads.sweeps.plans import read_sweep
    from stackheads.sweeps.workers import run_sweep

    if where.ray and where.workers != SweepOptions.workers:
        raise ConfigError(f"--workers is for processes of this machine, got {where.workers} with --ray: leave one of them out")
    outcome = run_sweep(
        read_sweep(file, common.seed),
        output_dir,
        where.workers,
        where.ray,
        common.device,
        where.threads,
        progress=not common.quiet,
    )
    if common.json:
        typer.echo(json_module.dumps(outcome.to_dict(), indent=2, allow_nan=False))
    else:
        print_sweep(outcome)
    if outcome.failures:
        raise typer.Exit(1)
