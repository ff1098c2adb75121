"""Load a script that a test is about. Nothing else of a test comes from scripts/."""

import importlib.util
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_script(path: str):
    """The module of scripts/PATH, with its folder on sys.path as if Python had started it.

    Raises:
        FileNotFoundError: no such script.
    """
    path = SCRIPTS / path
    name = f"script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module
