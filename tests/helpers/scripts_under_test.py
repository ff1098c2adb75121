"""Load a script that a test is about. Tests import nothing else from scripts/."""

import importlib.util
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_script(path: str):
    """The module of scripts/PATH. What it imports from beside it is found through pytest's `pythonpath`.

    Raises:
        FileNotFoundError: no such script.
    """
    path = SCRIPTS / path
    name = f"script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
