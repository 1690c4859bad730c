"""The verb that needs no model: theory."""

from pathlib import Path
from typing import Annotated

import typer

from stackheads.cli.options import Json, Quiet, Seed, with_options
from stackheads.cli.task_options import LinkOptions


@with_options
def theory(
    options: LinkOptions,
    task: Annotated[str, typer.Option(help="cycle or retrieval.")] = "cycle",
    examples: Annotated[int, typer.Option(help="Examples to simulate.")] = 256,
    seed: Seed = 0,
    output_dir: Annotated[Path | None, typer.Option(help="Also write the JSON object to theory.json in this folder.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How many layers each hop needs: closed forms, simulated flow of information, and shortcuts around the chain."""
    import json as json_module

    from stackheads.files import check_folder, write_json
    from stackheads.report.theory import print_depth
    from stackheads.theory import depth
    from stackheads.theory.flow import check_plain

    if output_dir is not None:
        check_folder(output_dir, files=["theory.json"])
    found = depth(check_plain(options.task(task)), examples, seed)
    if output_dir is not None:
        write_json(output_dir / "theory.json", found.to_dict())
    if json:
        typer.echo(json_module.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        print_depth(found)
