"""Record the demo in a terminal and draw it as an animated picture, docs/pictures/demo.svg.

    python scripts/dev/demo_recording.py [OUT.svg]

What is shown is what the demo really prints here. Only the time is changed: reading takes READING seconds in the picture, however
long it took, and no pause is longer than PAUSE. Run it in a terminal. Needs termtosvg, for Unix alone: pip install termtosvg.
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "pictures" / "demo.svg"
SIZE = "110x25"  # columns, rows
READING, PAUSE = 5.0, 1.5  # seconds
GREY, LIGHTER = "#75715e", "#a8a392"  # the template's bright black is hard to read on its background
STEP = 0.1  # frames that follow sooner are drawn as one
READ = "now ask about it"  # what the demo prints when it has read


def shorten(events: list) -> list:
    """Events [seconds, "o", text] in the time of the picture."""
    end = next(time for time, _, text in events if READ in text)
    scale, shown, before, out = READING / end, 0.0, 0.0, []
    for time, kind, text in events:
        shown += min((time - before) * (scale if time <= end else 1), PAUSE)
        before = time
        out.append([round(shown, 3), kind, text])
    return out


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    out.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, str(ROOT / "scripts" / "demo.py")])
    with tempfile.TemporaryDirectory() as folder:
        cast = Path(folder) / "demo.cast"
        subprocess.run(["termtosvg", "record", cast, "-c", command, "-g", SIZE], cwd=ROOT, check=True)
        header, *events = (json.loads(line) for line in cast.read_text(encoding="utf-8").splitlines())
        cast.write_text("\n".join(map(json.dumps, [header, *shorten(events)])) + "\n", encoding="utf-8")
        render = ["termtosvg", "render", cast, out, "-t", "window_frame", "-m", int(STEP * 1000), "-D", 6000]
        subprocess.run(list(map(str, render)), check=True)
    # no trailing blanks and one line end, as in every other file of the tree
    text = re.sub(r"[ \t]+$", "", out.read_text(encoding="utf-8").replace(GREY, LIGHTER), flags=re.M)
    out.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
