"""Docstrings explain names in aligned columns; on the site these become definition lists.

`name`     what it is, and how
           it goes on

"""

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(?P<names>`[^`]+`(?:, `[^`]+`)*)(?P<gap>  +(?=\S)|$)(?P<text>.*)$")
GOES_ON = re.compile(r"^ {4,}\S")


def as_definitions(text: str) -> str:
    """The text with every such column as Markdown's definition list."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        found = ENTRY.match(line)
        if found:
            lines += ([] if inside or not lines or not lines[-1] else [""]) + [found["names"], f":   {found['text']}", ""]
        elif inside and GOES_ON.match(line):
            lines[-1:] = [f"    {line.strip()}", ""]
            continue
        elif inside and not line.strip():
            continue
        else:
            lines.append(line)
        inside = bool(found)
    return "\n".join(lines)


class Definitions(griffe.Extension):
    """Changes every docstring on its way to the site."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_definitions(obj.docstring.value)
