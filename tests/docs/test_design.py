"""What docs/explanation/design.md says about the rooms holds for every import."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import ROOT, table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = ROOT / "qproxy"
MODULES = sorted(PACKAGE.rglob("*.py"))
DESIGN = ROOT / "docs" / "explanation" / "design.md"

MAY_IMPORT = {
    "errors": set(),
    "core": {"errors"},
    "upstreams": {"errors", "core"},
    "endpoints": {"errors", "core"},
    "edge": {"errors", "core"},
    "simulator": set(),
    "config": {"errors", "core", "upstreams"},
    "app": {"errors", "core", "upstreams", "endpoints", "edge", "config"},
    "cli": {"errors", "core", "upstreams", "edge", "config", "app", "simulator"},
    "__main__": {"cli"},
}
WORLD = {
    *("asyncio", "anyio", "trio", "uvloop", "httpcore", "socket", "ssl", "selectors", "threading", "multiprocessing"),
    *("time", "datetime", "random", "secrets", "os", "pathlib", "io", "tempfile", "logging", "subprocess"),
}


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names of what is imported, wherever in the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def at_start(tree: ast.Module) -> ast.Module:
    """Only what is imported when the module is: not for the type checker alone, not inside a function."""
    return ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], type_ignores=[])


def room(name: str) -> str:
    """`qproxy.core.route` is in `core`; what the package itself offers, its version, is in no room."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else ""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_rooms_import_in_one_direction(path: Path) -> None:
    own = room(module_name(path))
    entered = {room(name) for name in imports(parse(path)) if name.startswith("qproxy")} - {"", own}
    assert entered <= MAY_IMPORT.get(own, set())


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=ids)
def test_core_neither_waits_nor_touches_the_world(path: Path) -> None:
    tree = parse(path)
    assert {name.partition(".")[0] for name in imports(tree)} & WORLD == set()
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in ("open", "print")]


def test_no_module_imports_itself_around_a_circle() -> None:
    known = {module_name(path): path for path in MODULES}
    edges = {
        name: {
            target if target in known else target.rpartition(".")[0] for target in imports(at_start(parse(path)))
        }.intersection(known)
        for name, path in known.items()
    }
    while leaves := {name for name, targets in edges.items() if not targets - {name}}:
        edges = {name: targets - leaves for name, targets in edges.items() if name not in leaves}
    assert edges == {}


def test_what_is_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    imported = {name.partition(".")[0] for path in MODULES for name in imports(parse(path))}
    distributions = {"dotenv": "python-dotenv"}
    foreign = {distributions.get(name, name) for name in imported - sys.stdlib_module_names - {"qproxy"}}
    assert foreign <= declared


def test_the_page_lists_the_rooms() -> None:
    files = {row[0].removeprefix("qproxy/").rstrip("/").removesuffix(".py") for row in table(DESIGN, "room")}
    assert files == set(MAY_IMPORT) - {"simulator", "__main__"}
