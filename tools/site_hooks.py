"""What mkdocs.yml needs besides: pages outside of docs/, and links that also work on GitHub.

README.md, CHANGELOG.md and configs/README.md are pages of the site too. Links from one document to
another are rewritten to the pages; links to other files of the repository lead to the repository.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("README.md", "CHANGELOG.md", "configs/README.md")
# Files of the repository that are not pages are named, without a link: their address depends on
# where the repository is published.
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s:#]+)(#[\w-]+)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents outside of docs/."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Rewrite the links of a page."""
    name = page.file.src_uri
    folder = posixpath.dirname(name if name in OUTSIDE else f"docs/{name}")

    def rewritten(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        page_name = path if path in OUTSIDE else path.removeprefix("docs/")
        is_on_site = path in OUTSIDE or path.startswith("docs/")
        if is_on_site and files.get_file_from_path(page_name) is not None:
            relative = posixpath.relpath(page_name, posixpath.dirname(name) or ".")
            return f"{image}[{text}]({relative}{anchor or ''})"
        return text if (ROOT / path).exists() else match[0]

    return _LINK.sub(rewritten, markdown)
