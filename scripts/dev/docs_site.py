"""What mkdocs.yml calls while it builds the site: documents outside docs/ become pages, and links between files follow them."""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]

#: file of the repository -> its page
PAGES = {
    "README.md": "start.md",
    "CHANGELOG.md": "changes.md",
    "native/README.md": "native.md",
    "patches/README.md": "patches.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def place(page: str) -> str:
    """Where the text of a page stands in the repository."""
    return next((file for file, name in PAGES.items() if name == page), f"docs/{page}")


def rewritten(page: str, text: str) -> str:
    """The text of a page with its links as the site has them; a link to a file that has no page becomes the file's name."""
    folder = PurePosixPath(place(page)).parent

    def follow(found):
        mark, words, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or ":" in path:
            return found[0]
        file = os.path.normpath(folder / path).replace(os.sep, "/")
        if file in PAGES:
            target = PAGES[file]
        elif file.startswith("docs/"):
            target = file.removeprefix("docs/")
        else:
            return words if file in words else f"{words} (`{file}`)"
        return f"{mark}[{words}]({target}{'#' + anchor if anchor else ''})"

    return LINK.sub(follow, text)


def on_files(files, config):
    """Add the pages whose text stands outside docs/."""
    for file, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of a page."""
    return rewritten(page.file.src_uri, markdown)
