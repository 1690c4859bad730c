"""Run the notebooks and store what they print, as light as it can be, so that they can be read without running.

    python analyses/notebooks.py            # all, `make notebooks`
    python analyses/notebooks.py tour       # this one

What moves (CircuitsVis) needs a script of two megabytes and is not stored: a line in its place says to run the cell. Bars of
progress and times of execution are left out too. Run time: 1 to 2 minutes for each notebook.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
MOVING = re.compile(r'<div id="circuits-vis-[^"]*"[^>]*>.*?</div>\s*(?=<script)|<script.*?</script>', re.DOTALL)
INSTEAD = "<p><i>The attention of every head, to point at: run this cell to see it.</i></p>"


def run(path: Path) -> Any:
    """A notebook with what its cells print."""
    book = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(book, timeout=None, kernel_name="python3", coalesce_streams=True, resources=where).execute()
    return book


def lightened(book: Any) -> Any:
    """The same without scripts, progress and times."""
    for number, cell in enumerate(cell for cell in book.cells if cell.cell_type == "code"):
        cell.metadata, cell.execution_count = {}, number + 1
        cell.outputs = [light(output) for output in cell.outputs if output.get("name") != "stderr"]
    book.metadata.pop("widgets", None)
    book.metadata.pop("language_info", None)
    return book


def light(output: Any) -> Any:
    """One output without scripts."""
    data = output.get("data", {})
    if "text/html" in data:
        data["text/html"], moving = MOVING.subn("", data["text/html"])
        data["text/html"] += INSTEAD if moving else ""
    if "execution_count" in output:
        output["execution_count"] = None
    return output


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", choices=[*names, []], help="which; default: all")
    for name in parser.parse_args().names or names:
        path = HERE / f"{name}.ipynb"
        nbformat.write(lightened(run(path)), path)
        print(f"{name}: {path.stat().st_size / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
