"""An analysis as one HTML file that anyone can open: nothing is fetched, and everything is in it.

`page.html` is a Jinja2 template that escapes whatever it is given; `page.css` and `page.js` are put into it. Every number is in
the markup, as tables. The script adds sorting, highlighting in the circuit, and the attention of a chosen example, whose data
is JSON in the page. A content security policy lets only this script and this style act, named by their hashes, and nothing be
loaded: names and tokens are data, and stay data even if escaping should fail. The same analysis gives the same bytes.
"""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from stackheads.errors import ConfigError
from stackheads.explanation.explained import Explained
from stackheads.files import check_file, write_file
from stackheads.record import Missing, Record
from stackheads.report.page.attention import attention_data
from stackheads.report.page.content import content, number, selectors_content
from stackheads.trial.trial import Trial
from stackheads.types import Status

MAX_BYTES = 3_000_000


def to_html(
    analysis: Record,
    path: Path | str,
    trial: Trial | Missing | None = None,
    examples: int = 8,
    selectors: Explained | Missing | None = None,
) -> None:
    """Write an analysis as one HTML page, atomically, with trial and selectors if given (or why they are missing) and attention
    on the first `examples`.

    Attention needs the model: the page of an analysis that was loaded says that it has none. Cost: one forward pass on
    `examples` examples. Raises `ConfigError` if `path` can't be written, `examples` is negative, or the page would exceed 3 MB.
    """
    check_file(path)
    for what, given, kind in (("trial", trial, Trial), ("selectors", selectors, Explained)):
        if given is not None and not isinstance(given, (kind, Missing)):
            raise ConfigError(f"a page shows what analysis.{what}() gave, got {type(given).__name__}: give that as {what}")
    text = page(analysis, trial, examples, selectors).encode("utf-8", "replace")
    if len(text) > MAX_BYTES:
        raise ConfigError(f"a page is at most {MAX_BYTES / 1e6:.0f} MB, got {len(text) / 1e6:.1f} MB: ask for fewer examples")
    write_file(Path(path), lambda temporary: temporary.write_bytes(text))


def page(
    analysis: Record, trial: Trial | Missing | None = None, examples: int = 8, selectors: Explained | Missing | None = None
) -> str:
    """The page as text. Raises `ConfigError` if `examples` is negative."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("stackheads.report", "page")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number}
    folder = files("stackheads.report.page")
    style, script = (folder.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    style = "".join(f'[data-status="{status}"] {{ --status: {status.colour}; }}\n' for status in Status) + style
    attention = attention_data(analysis, examples)
    return environment.get_template("page.html").render(
        policy=policy(script, style),
        style=style,
        script=script,
        attention=attention,
        data=data_block(attention),
        selectors=None if selectors is None else selectors_content(selectors),
        **content(analysis, trial),
    )


def policy(script: str, style: str) -> str:
    """The content security policy: this script and this style, and nothing else."""
    allowed = {"script-src": script, "style-src": style}
    hashes = {what: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for what, text in allowed.items()}
    rules = ["default-src 'none'", *(f"{what} 'sha256-{value}'" for what, value in hashes.items())]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def data_block(value: Any) -> str:
    """JSON in ASCII that no HTML parser can leave: `<`, `>` and `&` are escaped too, as are all line separators."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
