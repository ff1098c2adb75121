"""Check what other tools do not: the patches, the pin, the sizes of files. Prints one line per fault; exit status 1 for any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "cmake"))
import llama_source
import patch_series

MAX_LINES = {".cpp": 400, ".h": 400, ".py": 400, ".cmake": 150, ".sh": 100}
MAX_RUN = 3  # added lines of a patch in one place
REASONS = ("temporary", "build-only", "by design")  # why a patch may exist


def tracked_files() -> list[Path]:
    run = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in run.stdout.splitlines() if (ROOT / name).is_file()]


def check_patches() -> list[str]:
    faults = []
    try:
        patches = patch_series.load_series()
        _, rejected = patch_series.apply_series(llama_source.read_files(None), patches)
    except patch_series.PatchError as error:
        return [str(error)]
    faults += [f"patches/{patch.name}: {hunk.header} does not fit {path}" for patch, path, hunk in rejected]
    listed = {patch.name for patch in patches}
    faults += [f"patches/{p.name} is not in patches/series" for p in patch_series.PATCHES.glob("*.patch") if p.name not in listed]
    for patch in patches:
        if not patch.reason.startswith(REASONS):
            faults.append(f"patches/{patch.name}: its header has no line 'Reason: ...': allowed is {', '.join(REASONS)}, and why")
        for path, hunks in patch.files.items():
            for hunk in hunks:
                kinds = "".join(line[0] for line in hunk.body if line.strip() != "+")
                if max(len(run) for run in kinds.split(" ")) > MAX_RUN:
                    faults.append(f"patches/{patch.name}: {path}: {hunk.header} adds more than {MAX_RUN} lines in one place")
    return faults


def check_files() -> list[str]:
    faults = []
    version = llama_source.read_pin()["version"]
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        limit = MAX_LINES.get(path.suffix)
        if limit and text.count("\n") > limit:
            faults.append(f"{name}: {text.count(chr(10))} lines, at most {limit}")
        # documents and measured rows may name the version that was measured
        if name != "LLAMA_CPP_VERSION" and path.suffix not in (".md", ".jsonl") and version in text:
            faults.append(f"{name}: says {version}, which only LLAMA_CPP_VERSION may")
    return faults


def main() -> int:
    faults = check_patches() + check_files()
    print("\n".join(faults) or "lint: patches, pin and file sizes are as they should be")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
