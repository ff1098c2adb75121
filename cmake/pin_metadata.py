"""The dependencies in pyproject.toml: its own list, and llama-cpp-python in the version that LLAMA_CPP_VERSION pins."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from llama_source import pin_name, read_pin


def dynamic_metadata(field: str, settings: dict[str, object]) -> list[str]:
    if field != "dependencies":
        raise ValueError(f"pin_metadata fills in dependencies, not '{field}'")
    return [pin_name(read_pin()), *settings["others"]]
