"""Take the pictures of docs/chat.md: capkv-chat runs in a real terminal, and its screen is drawn as SVG.

    scripts/checks/chat_pictures.py                 write docs/pictures/chat-*.svg
    scripts/checks/chat_pictures.py --folder out    write them elsewhere

The demo model reads a part of the documents, so the pictures are of what it really says and holds.
"""

import argparse
import os
import sys
import tempfile
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
ROWS, COLUMNS = 30, 100
TEXT = "docs/kept.md"
QUESTION = "Write three short facts about the text, as a list with bold words."
COLORS = {"brown": "yellow"} | {f"bright{name}": f"bright_{name}" for name in ("black", "red", "green", "blue", "cyan", "magenta", "white")}


def style(cell) -> str:
    """The style of a cell of the screen, in rich's words."""
    colors = []
    for mark, name in (("", cell.fg), ("on ", cell.bg)):
        if name != "default":
            colors.append(mark + (f"#{name}" if len(name) == 6 and set(name) <= set("0123456789abcdef") else COLORS.get(name, name)))
    return " ".join(["bold"] * cell.bold + ["italic"] * cell.italics + ["reverse"] * cell.reverse + colors)


def draw(terminal, path: Path, title: str) -> None:
    """Write what is on the screen as SVG, without the empty rows in its middle or at its end."""
    screen, text = terminal.screen, Text()
    for row in range(screen.lines):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        for one, run in groupby(cells, key=style):
            text.append("".join(cell.data for cell in run), one)
        text.append("\n")
    lines = text.split("\n")
    while len(lines) > 1 and not lines[-1].plain.strip():
        lines.pop()
    console = Console(record=True, width=screen.columns, file=open("/dev/null", "w"), force_terminal=True, color_system="truecolor")
    blank = False
    for line in lines:
        if line.plain.strip() or not blank:
            console.print(line, no_wrap=True, crop=True, end="\n")
        blank = not line.plain.strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    svg = console.export_svg(title=title, unique_id=path.stem)
    path.write_text(svg + "\n" * (not svg.endswith("\n")), encoding="utf-8")
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    folder = parser.parse_args().folder.absolute()
    os.chdir(ROOT)  # the paths on the screen are those of the checkout
    sys.path.insert(0, str(HELPERS))
    from terminal import CHAT, Terminal

    def ask(line: str, what, seconds: float = 900) -> None:
        terminal.send(line + "\r")
        terminal.wait_for(what, seconds)
        terminal.settle()

    with tempfile.TemporaryDirectory() as data:
        options = ["--budget", "256", "--temp", "0", "--seed", "1", "--max-tokens", "60", "--threads", "1"]
        terminal = Terminal([*CHAT, "demo", *options], ROWS, COLUMNS, XDG_DATA_HOME=data)
        try:
            terminal.wait_for("/help lists the commands", 300)
            terminal.settle()
            ask(f"/read {TEXT}", "now ask about it")
            terminal.wait_for(lambda one: any(row.rstrip() == ">" for row in one.screen.display[4:]), 60)
            terminal.send(QUESTION + "\r")
            terminal.wait_for(lambda one: len(one.text().partition(QUESTION)[2].split()) > 60, 300)
            draw(terminal, folder / "chat-reply.svg", "capkv-chat: a reply as it streams")
            terminal.wait_for(lambda one: "tokens/s ·" in one.text().partition(QUESTION)[2], 900)
            terminal.settle()
            ask("/budget 200", "holds 200 now")
            for line, name, title in (("/kept", "kept", "what the cache still holds"), ("/why recall", "why", "where words stand")):
                ask(line, "KV heads that hold it")
                draw(terminal, folder / f"chat-{name}.svg", f"capkv-chat: {title}")
                terminal.send("\x0c")  # a clean screen
                terminal.settle()
        finally:
            terminal.close()


if __name__ == "__main__":
    main()
