"""What is wanted of `analyze` beside the labels, and where it goes: files apart from those that are read, and the terminal."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackheads.errors import ConfigError, StackheadsError

if TYPE_CHECKING:
    from stackheads.analysis import Analysis
    from stackheads.explanation.explained import Explained
    from stackheads.record import Missing
    from stackheads.trial.trial import Trial

Further = dict[str, Any]
"""What is asked beside the labels, by its name in JSON."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted beside the labels, and where it goes."""

    output_dir: Annotated[Path | None, typer.Option(help="Also save the analysis, and what else is wanted, as a folder.")] = (
        None
    )
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Also write the figures, evidence, circuit and reach among them, as PNG, SVG and PDF to this folder."
        ),
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
                "the model": files_of(source),
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


def or_missing(ask: Callable[[], "Trial | Explained"]) -> "Trial | Explained | Missing":
    """What is asked beside the labels, or why the model has none: the labels stand without it."""
    from stackheads.record import Missing

    try:
        return ask()
    except StackheadsError as error:
        return Missing(str(error))


def say(analysis: "Analysis", further: Further, json: bool) -> None:
    """Print the labels and what was asked beside them, as JSON or in words."""
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


def files_of(source: Path | None) -> list[Path]:
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
