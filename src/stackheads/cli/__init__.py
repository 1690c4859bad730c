"""The command line: arguments only. What a user can get wrong ends in one line on stderr and exit status 2."""

import contextlib
import sys
import warnings
from collections.abc import Generator
from typing import Any

import typer

from stackheads.cli.bounds import theory
from stackheads.cli.language import llm
from stackheads.cli.looking import analyze, emerge, validate
from stackheads.cli.training import sweep, train
from stackheads.errors import StackheadsError
from stackheads.limits import too_large
from stackheads.report.console import encodable

app = typer.Typer(
    help="Label which attention heads implement which hop, with evidence.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (analyze, train, emerge, validate, sweep, theory, llm):
    app.command()(verb)

_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Typer's base class of usage errors; which module it lives in depends on Typer's version."""

_INTERRUPTED = 130
"""The exit status after Ctrl-C; Typer catches `KeyboardInterrupt` and returns this instead."""


@contextlib.contextmanager
def _one_line_errors() -> Generator[None]:
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
        raise SystemExit(_INTERRUPTED) from None
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:  # torch has no one kind for what does not fit
        if (told := too_large(error)) is None:
            raise
        message = told
    else:
        return
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    raise SystemExit(2)


def _one_line_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Warnings of ours as one line on stderr, without the place in the code."""
    sys.stderr.write("note: " + " ".join(str(message).split()) + "\n")


def main() -> None:
    """Entry point of the `stackheads` command."""
    encodable(sys.stdout)
    warnings.showwarning = _one_line_warning
    with _one_line_errors():
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        raise SystemExit(status if isinstance(status, int) else 0)
