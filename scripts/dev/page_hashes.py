"""Write the hashes of the page's style and script into its Content-Security-Policy; --check only tells whether they are right."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "capkv_edge" / "serve" / "page" / "index.html"


def with_hashes(text: str) -> str:
    """The page with the hashes that a browser computes: SHA-256 of what stands between the tags, in base64."""
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        text = re.sub(rf"{tag}-src 'sha256-[^']*'", f"{tag}-src 'sha256-{digest}'", text)
    return text


def main() -> int:
    before = PAGE.read_text(encoding="utf-8")
    after = with_hashes(before)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(after, encoding="utf-8")
    elif before != after:
        print(f"{PAGE.name}: its hashes are not those of its style and script: run scripts/dev/page_hashes.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
