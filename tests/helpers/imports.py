"""Which modules of the package a module imports, read from its source."""

import ast

PACKAGE = "capkv_edge"


def imported(source: str, module: str, is_package: bool = False) -> set:
    """Full names of what a module of the package imports; of `from x import y` both x and x.y, since y may be a module.

    What only a type checker reads is no import: no code of one part calls the other's there."""
    found, package = set(), module.split(".") if is_package else module.split(".")[:-1]
    nodes = [ast.parse(source)]
    for node in nodes:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == PACKAGE}


def circle(allowed: dict) -> set:
    """The parts of a table {part: parts that it may use} that use each other in a circle; empty where there is none."""
    left = dict(allowed)
    while left:
        lowest = {part for part, below in left.items() if not below & set(left)}
        if not lowest:
            return set(left)
        left = {part: below for part, below in left.items() if part not in lowest}
    return set()
