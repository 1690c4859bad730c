"""Verbs that make models: train, sweep."""

from pathlib import Path
from typing import Annotated

import typer

from stackheads.cli.options import Device, Json, Quiet, Seed, TaskOptions, use_threads, with_options


@with_options
def train(
    task: Annotated[str, typer.Argument(help="cycle, retrieval, conditional or khop.", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="The run folder to write.", show_default=False)],
    options: TaskOptions,
    layers: Annotated[int, typer.Option(help="Layers.")] = 3,
    heads: Annotated[int, typer.Option(help="Heads in each layer.")] = 2,
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.")] = 64,
    d_head: Annotated[int, typer.Option(help="Width of a head.")] = 16,
    mlp: Annotated[bool, typer.Option("--mlp", help="Add MLPs.")] = False,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 4000,
    batch: Annotated[int, typer.Option(help="Examples in a step.")] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW weight decay.")] = 0.1,
    warmup: Annotated[int, typer.Option(help="Warm-up steps.")] = 200,
    balanced: Annotated[bool, typer.Option("--balanced", help="Weigh query and value slots equally.")] = False,
    entropy: Annotated[float, typer.Option(help="Weight of the attention entropy in the loss: sharper heads.")] = 0.0,
    loudness: Annotated[float, typer.Option(help="Weight of what heads write, a group lasso: fewer heads.")] = 0.0,
    sharpen_from: Annotated[int, typer.Option(help="The step from which entropy and loudness count.")] = 0,
    drop_heads: Annotated[float, typer.Option(help="Probability of dropping each head in each example.")] = 0.0,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations.")] = 250,
    stop_at: Annotated[float, typer.Option(help="Stop when every hop reaches this accuracy; 0: run all steps.")] = 0.0,
    snapshot_every: Annotated[int, typer.Option(help="Keep a snapshot each so many steps; 0: only the last.")] = 0,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; resuming bit for bit needs the same number.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a task and write a run folder with its snapshots."""
    from stackheads.files import check_folder
    from stackheads.models import model_config
    from stackheads.training.config import training_config
    from stackheads.training.trainer import train as run

    use_threads(threads)
    check_folder(output_dir)
    checkpoint = run(
        options.task(task),
        model_config({"layers": layers, "heads": heads, "d_model": d_model, "d_head": d_head, "attn_only": not mlp}),
        training_config(
            {
                "steps": steps,
                "batch": batch,
                "lr": lr,
                "weight_decay": weight_decay,
                "warmup": warmup,
                "balanced": balanced,
                "entropy": entropy,
                "loudness": loudness,
                "sharpen_from": sharpen_from,
                "drop_heads": drop_heads,
                "seed": seed,
                "evaluate_every": evaluate_every,
                "stop_at": stop_at or None,
                "snapshot_every": snapshot_every,
            }
        ),
        output_dir=output_dir,
        device=device,
        progress=not quiet,
        resume=resume,
    )
    accuracy = checkpoint.metrics["accuracy"]
    if json:
        import json as json_module

        typer.echo(json_module.dumps({"run": str(output_dir), **checkpoint.metrics}))
    else:
        shares = "  ".join(f"{hop}: {share:.1%}" for hop, share in accuracy.items())
        typer.echo(f"{output_dir}: accuracy per hop on {checkpoint.metrics['examples']} fresh examples\n{shares}")


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep's YAML file.", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="The sweep's folder; one begun goes on.", show_default=False)],
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    ray: Annotated[str, typer.Option(help="Address of a Ray cluster to run on instead; auto: the one here.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the cells, where the file names none.")] = 0,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads of each cell.")] = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a grid of models; killed at any point, the same command goes on. Status 1 if a cell fails."""
    import json as json_module

    from stackheads.report.sweep import print_sweep
    from stackheads.sweeps.sweep import read_sweep
    from stackheads.sweeps.workers import run_sweep

    outcome = run_sweep(read_sweep(file, seed), output_dir, workers, ray, device, threads, progress=not quiet)
    if json:
        typer.echo(json_module.dumps(outcome.to_dict(), indent=2, allow_nan=False))
    else:
        print_sweep(outcome)
    if outcome.failures:
        raise typer.Exit(1)
