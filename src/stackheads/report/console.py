"""Where every printer writes: colours on a terminal, plain text in a pipe, and nothing lost where a character can't be written.

A stream that is strict about its encoding (`PYTHONIOENCODING=ascii`, a Latin-1 locale) would end in an error at the first
bullet, after the whole work. It is told to write what stands for the character in ASCII; statuses stay different ones.
"""

import codecs
import io
import sys
from typing import TYPE_CHECKING, TextIO

from stackheads.types import Status

if TYPE_CHECKING:
    from rich.console import Console

FALLBACK = "stackheads"
"""Name of the error handler, for `errors=`."""

UNHELPFUL = ("strict", "surrogateescape")
"""How streams begin: everywhere, and in the C locale."""

IN_ASCII = {
    **dict(zip((status.symbol for status in Status), "*=vo~?.", strict=True)),
    **dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True)),
    **dict(zip("–—−×→…“”’ü\xa0", '---x>.""\'u ', strict=True)),
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
}
"""What is written where a character can't be; "?" for all others."""


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(IN_ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error(FALLBACK, _in_ascii)


def encodable(stream: TextIO) -> TextIO:
    """The stream, which from now on replaces what its encoding lacks, unless it already did something about that."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors in UNHELPFUL:
        stream.reconfigure(errors=FALLBACK)
    return stream


def console_on(file: TextIO | None = None) -> "Console":
    """A console on a text stream, stdout by default, that prints text as it is: no markup, emoji or highlighting."""
    from rich.console import Console

    return Console(
        file=encodable(file or sys.stdout), highlight=False, markup=False, emoji=False, soft_wrap=False, force_jupyter=False
    )
