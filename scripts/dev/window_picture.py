"""Make docs/pictures/window.png: the window of examples/window.py on a screen that nobody sees, in a chat about a text.

    .venv/bin/python scripts/dev/window_picture.py

Needs Xvfb (Debian: apt install xvfb) and Pillow.
"""

import importlib.util
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from display import virtual_screen

PICTURE, TEXT = ROOT / "docs" / "pictures" / "window.png", ROOT / "build" / "window" / "python-reference.txt"
N_CHARS, BUDGET, QUESTIONS = 2_600, 256, ("Which statements are compound?",)


def load_window():
    """The module examples/window.py."""
    spec = importlib.util.spec_from_file_location("window", ROOT / "examples" / "window.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait(window, condition) -> None:
    """Run the window until the condition holds."""
    while not condition():
        window.root.update()
        time.sleep(0.01)


def main() -> None:
    from PIL import ImageGrab
    from pydoc_data.topics import topics

    TEXT.parent.mkdir(parents=True, exist_ok=True)
    TEXT.write_text(topics["compound"][:N_CHARS].rpartition("\n\n")[0] + "\n", encoding="utf-8")
    module = load_window()
    with virtual_screen() as display:
        window = module.Window(module.Model("demo", kv_budget=BUDGET, n_batch=128))
        window.root.geometry("+20+20")
        wait(window, lambda: "evicted" in window.figures["text"])
        window.read(str(TEXT))
        wait(window, lambda: not window.is_busy)
        for question in QUESTIONS:
            window.send(question)
            wait(window, lambda: not window.is_busy)
        window.line.insert(0, "And what does it cost?")
        window.root.update()
        at = (window.root.winfo_rootx(), window.root.winfo_rooty())
        box = (*at, at[0] + window.root.winfo_width(), at[1] + window.root.winfo_height())
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        ImageGrab.grab(bbox=box, xdisplay=display).save(PICTURE)
        window.model.asked.put(None)
        window.model.join()
        window.root.destroy()
    print(PICTURE)


if __name__ == "__main__":
    main()
