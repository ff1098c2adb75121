"""The tree is what the documents say: rooms, paths and links are there, and scripts and tests keep out of each other."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("capkv_edge", "cmake", "docs", "examples", "native", "patches", "scripts", "tests")
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
SCRIPTS = sorted(ROOT.glob("scripts/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))
HELPERS = {path.stem for path in ROOT.glob("tests/helpers/*.py")}

NOT_KEPT = {"docs/results/index.html", "capkv_edge/lib", "capkv_edge/include"}  # made by a run, or by a build in the wheel
EXAMPLES = {"native/policies/vnorm.cpp", "tests/native/test-NAME.cpp"}

LINK = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")
SYS_PATH_EDIT = re.compile(r"\bsys\.path(\.(insert|append|extend)\(|(\[[^]]*\])? \+?= )")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})/[\w./*{{}},-]*(?![\\\w])")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchor(title: str) -> str:
    """What a heading is linked as."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def alternatives(path: str) -> list[str]:
    """a{b,c} as a shell reads it: ab, ac. Of other braces, which a program fills in, nothing."""
    found = re.fullmatch(r"(.*?)\{([^}]*,[^}]*)\}(.*)", path)
    if found:
        return [found[1] + part + found[3] for part in found[2].split(",")]
    return [] if "{" in path else [path]


def paths_in(text: str) -> set[str]:
    return {part for found in PATH.findall(text) for part in alternatives(found.rstrip(".,"))}


def missing(text: str) -> list[str]:
    found = {path.rstrip("/") for path in paths_in(text)} - EXAMPLES - NOT_KEPT
    return sorted(path for path in found if not any(ROOT.glob(path)))


def sources() -> list[Path]:
    """Files of people, in which a path may be named: not history, and not the rows that were measured."""
    run = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [line for line in run.stdout.splitlines() if not line.startswith(("docs/results/", "patches/", "tests/"))]
    kinds = (".cmake", ".cpp", ".def", ".h", ".md", ".py", ".sh", ".toml", ".txt")
    found = [ROOT / line for line in names if line.endswith(kinds) or line in ("Makefile", ".ci/run")]
    return [path for path in found if path.name != "CHANGELOG.md" and path.is_file()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_to_files_and_headings_that_are_there(path):
    for target, heading in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file = path.parent / target if target else path
        assert file.exists(), f"{target} in {name(path)}"
        if heading and file.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading[1:] in map(anchor, titles), f"{target}{heading} in {name(path)}"


def test_paths_that_are_named_are_there():
    faults = {name(path): missing(path.read_text(encoding="utf-8")) for path in sources()}
    assert {path: found for path, found in faults.items() if found} == {}


def test_a_path_that_is_gone_is_found():
    assert missing("see scripts/gone.py, `tests/helpers/` and patches/{README.md,series}.") == ["scripts/gone.py"]


@pytest.mark.parametrize("path", [*DOCUMENTS, *ROOT.glob("scripts/**/*.py")], ids=name)
def test_targets_of_make_that_are_named_are_there(path):
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (.*)$", text, re.MULTILINE)
    named = {found for command in commands for found in re.findall(r"(?:^|&& |\()make ([a-z.][\w./-]*)", command)}
    assert named <= targets, f"{name(path)} names targets that the Makefile lacks"


def test_every_room_is_in_the_list_of_rooms():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w/]+)/` \|", text, re.MULTILINE))
    assert {"native", "capkv_edge/bench/report", "scripts/checks"} <= listed
    code = (*ROOT.glob("capkv_edge/**/*.py"), *ROOT.glob("native/**/*.h"), *SCRIPTS)
    rooms = {name(path.parent) for path in code} - {"scripts/checks/gpu", "scripts/checks/server_tests"}
    assert rooms <= listed, "a room that docs/architecture.md does not list"


def imported(path: Path) -> set[str]:
    """The first names of the modules that a file imports, not those of its own package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_import_nothing_of_the_tests_but_helpers(path):
    others = {test.stem for test in TESTS} - HELPERS | {"tests"}
    assert imported(path) & others == set()
    folders = re.findall(r"""["']tests["'] / ["'](\w+)["']""", path.read_text(encoding="utf-8"))
    assert set(folders) <= {"helpers"}


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_tests_import_nothing_of_the_scripts(path):
    own = HELPERS | {"conftest"}
    assert imported(path) & ({script.stem for script in SCRIPTS} - own | {"scripts"}) == set()
    if path.name != "scripts_under_test.py":
        assert not SYS_PATH_EDIT.search(path.read_text(encoding="utf-8")), "pytest's pythonpath names the helpers"
