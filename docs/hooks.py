"""What the site does beyond MkDocs: files of the repository that pages point at, and no page that fetches anything."""

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SHOWN = re.compile(r"(?<=\]\()(?:\.\./)+(analyses/[^)#\s]+)")
"""A link out of docs/ to a script, a table or a figure; it works in a checkout and, copied, on the site."""
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//|<link\b[^>]*\shref=["']?(?:https?:)?//"""
)
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: Any) -> Files:
    """Add every file below analyses/ that some page points at."""
    pages = [page.content_string for page in files.documentation_pages()]
    for name in sorted({name for text in pages for name in SHOWN.findall(text)}):
        path = ROOT / name
        if path.is_file():
            files.append(File.generated(config, name, abs_src_path=str(path)))
        else:
            log.warning("a page points at %s, which does not exist", name)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point at the copies."""
    up = "../" * page.file.src_uri.count("/")
    return SHOWN.sub(lambda link: up + link[1], markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Complain about whatever a reader's browser would fetch from elsewhere."""
    for found in FETCHED.findall(output):
        log.warning("%s would fetch from the network: %s", page.file.src_uri, found)
    return output
