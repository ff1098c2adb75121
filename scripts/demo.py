"""The demo: read a text that is longer than the model was trained for into a cache that is far too small for it, and talk on.

    python scripts/demo.py [options of capkv-chat; they override those of the demo]

The system prompt is pinned, so the model still knows what it says. What the first pages said is evicted; a question about them brings
the passage back by recall.
"""

import os
import sys
from pathlib import Path

from capkv_edge import crashes

TEXT = Path(__file__).resolve().parent.parent / "build" / "demo" / "python-reference.txt"
N_CHARS = 40_000  # more tokens than the 8,192 that the demo model was trained for
BUDGET = "512"
SYSTEM = "You are Ada, the Python teacher of a school in Lisbon. The school opens at nine."
QUESTIONS = ["How is the dangling else problem solved in Python?", "When does the school open?"]


def write_text() -> int:
    """Write the start of the chapter on compound statements into TEXT; returns its length in characters."""
    from pydoc_data.topics import topics

    text = topics["compound"][:N_CHARS].rpartition("\n\n")[0] + "\n"
    TEXT.parent.mkdir(parents=True, exist_ok=True)
    TEXT.write_text(text, encoding="utf-8")
    return len(text)


def main() -> int:
    n_chars = write_text()
    program = Path(sys.executable).with_name("capkv-chat" + (".exe" if os.name == "nt" else ""))
    command = [str(program), "demo", "--budget", BUDGET, "--temp", "0", "--max-tokens", "60", "--system", SYSTEM]
    command += ["--file", os.path.relpath(TEXT)]
    for question in QUESTIONS:
        command += ["--prompt", question]
    command += sys.argv[1:]
    shown = " ".join(f'"{part}"' if " " in part else part for part in ["capkv-chat", *command[1:]])
    print(f"{n_chars:,} characters of the Python language reference through a budget of {BUDGET} tokens:\n$ {shown}\n", flush=True)
    return crashes.call(command)


if __name__ == "__main__":
    sys.exit(main())
