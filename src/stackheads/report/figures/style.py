"""What all figures share: colours, markers, and how a figure becomes a file.

Colours are Okabe and Ito's (2008) for statuses, inputs and destinations and cividis for hops and shares, all made for
colour-blind readers; what a colour says is also said by a marker, a letter or a name.
"""

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackheads.errors import ConfigError
from stackheads.files import check_file, write_file
from stackheads.timeline.result import OTHER_ROLE
from stackheads.types import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {**{status.value: status.colour for status in Status}, OTHER_ROLE: "#000000"}
MARKERS = {status.value: "." if status is Status.NONE else f"${status.symbol}$" for status in Status}
"""The symbols as matplotlib draws them: as a glyph, which it scales to one size, so that the dot must stay its own."""
FORMATS = (".png", ".svg", ".pdf")
DOTTED = (0, (2, 3))
SAME_BYTES: Any = {"svg.hashsalt": "stackheads"}
UNDATED: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""The same figure gives the same bytes."""


def save_figure(figure: "Figure", path: Path | str) -> None:
    """Write a figure as .png, .svg or .pdf, atomically. Raises `ConfigError` for another ending, or if it can't be written."""
    from matplotlib import rc_context

    check_file(path)
    target = Path(path)
    ending = target.suffix.lower()
    if ending not in FORMATS:
        raise ConfigError(f"a figure is written as .png, .svg or .pdf, got {str(path)!r}: give another name")
    kind = ending.removeprefix(".")

    def write(temporary: Path) -> None:
        figure.savefig(temporary, format=kind, dpi=150, metadata=UNDATED.get(kind))

    with rc_context(SAME_BYTES):
        write_file(target, write)


def svg_text(figure: "Figure") -> str:
    """A figure as an SVG element, to be put into HTML."""
    from matplotlib import rc_context

    stream = StringIO()
    with rc_context(SAME_BYTES):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def hop_colours(hops: list[int]) -> dict[int, Any]:
    """A colour for each hop, dark to light; the lightest yellows of cividis are left out, they fade on white."""
    from matplotlib import colormaps

    scale = colormaps["cividis"]
    return {hop: scale(0.85 * number / max(len(hops) - 1, 1)) for number, hop in enumerate(hops)}


def plain(axes: Any) -> None:
    """Without the frame's upper and right line."""
    axes.spines[["top", "right"]].set_visible(False)
