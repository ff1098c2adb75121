"""What a script imports is what it means: Python looks in the script's own folder first."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))


def hidden(script: Path, siblings: set) -> set:
    """The packages that a script imports a part of and that a file beside it hides, as wheel.py hides the package wheel."""
    tree = ast.walk(ast.parse(script.read_text(encoding="utf-8")))
    names = {name for node in tree for name in _imported(node) if "." in name}
    return {name for name in names if name.partition(".")[0] in siblings}


def _imported(node) -> list:
    if isinstance(node, ast.Import):
        return [one.name for one in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_beside_a_script_hides_a_package(script):
    assert not hidden(script, {path.stem for path in script.parent.glob("*.py")})


def test_a_hidden_package_is_found():
    assert hidden(ROOT / "scripts/dev/backend_wheel.py", {"wheel", "lint"}) == {"wheel.wheelfile"}
