"""The house rules that a linter cannot see: who may import whom, and what the core never does.

    errors <- core <- {upstreams, endpoints, edge} <- app <- cli

The three siblings do not know each other. The configuration is read by the application and the command line alone; the
simulator stands beside the house and is known to the command line alone.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import qproxy

ROOT = Path(qproxy.__file__).parent

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "core": {"errors"},
    "upstreams": {"errors", "core"},
    "endpoints": {"errors", "core"},
    "edge": {"errors", "core"},
    "config": {"errors", "core", "upstreams"},
    "app": {"errors", "core", "upstreams", "endpoints", "edge", "config"},
    "cli": {"errors", "core", "upstreams", "endpoints", "edge", "config", "app", "simulator"},
    "simulator": {"errors", "core"},
    "__main__": {"cli"},
}
"""By room: the other rooms that it may know. All know `qproxy` itself, for the version."""

ONLY_IN: dict[str, set[str]] = {
    "h11": {"core/http1.py", "simulator/request.py"},
    "httpcore": {
        "app/clients.py",
        "cli/chat.py",
        "cli/demo.py",
        "cli/probe.py",
        "edge/connect.py",
        "edge/http11.py",
        "edge/pool.py",
        "edge/streams.py",
        "edge/token_endpoint.py",
        "edge/upstreams.py",
    },
    "trio": {"edge/runtime_trio.py"},
    "uvloop": set(),
    "asyncio": {"edge/runtime.py", "edge/streams.py", "simulator/speed.py"},
}  # fmt: skip
"""Who may know a package that shapes whatever touches it. A new name here is a decision, not a formality."""

ONE_FILE_AT_MOST = ("tiktoken", "prometheus_client", "segno")

IMPURE = {
    "anyio", "asyncio", "datetime", "glob", "httpcore", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "shutil", "signal", "sniffio", "socket", "ssl", "subprocess", "sys", "tempfile", "threading",
    "time", "trio", "uuid", "uvloop", "warnings",
}  # fmt: skip
"""No socket, clock, chance, file, log or process in the core: what it needs of them comes in as a value."""

IMPURE_CALLS = {"open", "print", "input", "breakpoint"}


@cache
def sources() -> dict[str, ast.Module]:
    """Every file of the package by its path below it."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
    }


FILES = sorted(sources())
CORE = [path for path in FILES if path.startswith("core/")]


def module_of(path: str) -> str:
    parts = ["qproxy", *path.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The first name below the package; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def imports(tree: ast.AST, *, for_types: bool = True) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it; without those for the type checker alone, if asked."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and _is_type_checking(node.test) and not for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        yield from imports(node, for_types=for_types)


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def modules() -> set[str]:
    return {module_of(path) for path in FILES}


def own_imports(path: str, *, for_types: bool = True) -> set[str]:
    """The modules of the package that a file imports."""
    known = modules()
    found = set()
    for name in imports(sources()[path], for_types=for_types):
        if name.split(".")[0] == "qproxy":
            found.add(name if name in known else name.rpartition(".")[0])
    return found


def foreign_imports(path: str) -> set[str]:
    """The first names of everything else."""
    return {name.split(".")[0] for name in imports(sources()[path])} - {"qproxy", "__future__"}


def test_every_room_has_its_rule() -> None:
    assert {room_of(module) for module in modules()} - {""} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES)
def test_a_room_knows_only_what_lies_below_it(path: str) -> None:
    room = room_of(module_of(path))
    rooms = {room_of(module) for module in own_imports(path)} - {"", room}
    assert rooms <= MAY_IMPORT.get(room, set())


def test_the_siblings_do_not_know_each_other() -> None:
    siblings = {"upstreams", "endpoints", "edge"}
    assert not any(siblings & MAY_IMPORT[sibling] for sibling in siblings)


def test_there_is_no_cycle() -> None:
    """Names for the type checker aside: those are never imported."""
    graph = {module_of(path): own_imports(path, for_types=False) - {module_of(path)} for path in FILES}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", ONLY_IN)
def test_who_knows_a_package(package: str) -> None:
    assert {path for path in FILES if package in foreign_imports(path)} == ONLY_IN[package]


@pytest.mark.parametrize("package", ONE_FILE_AT_MOST)
def test_one_file_knows_it_at_most(package: str) -> None:
    assert len([path for path in FILES if package in foreign_imports(path)]) <= 1


def test_one_command_knows_the_simulator() -> None:
    assert {path for path in FILES if any(room_of(each) == "simulator" for each in own_imports(path))} <= {
        "cli/demo.py",
        *(path for path in FILES if path.startswith("simulator/")),
    }


@pytest.mark.parametrize("path", CORE)
class TestTheCoreIsPure:
    def test_it_imports_nothing_of_the_world(self, path: str) -> None:
        assert not foreign_imports(path) & IMPURE

    def test_it_never_waits(self, path: str) -> None:
        """A Protocol may declare what others have to await."""
        waiting = (ast.Await, ast.AsyncFor, ast.AsyncWith)
        assert not [node.lineno for node in ast.walk(sources()[path]) if isinstance(node, waiting)]
        assert set(_coroutines(sources()[path])) <= set(_declared(sources()[path]))

    def test_it_opens_and_prints_nothing(self, path: str) -> None:
        calls = [node.func for node in ast.walk(sources()[path]) if isinstance(node, ast.Call)]
        assert not {func.id for func in calls if isinstance(func, ast.Name)} & IMPURE_CALLS

    def test_it_has_no_state_of_its_own(self, path: str) -> None:
        """No `global`: what changes belongs to an object that somebody made."""
        assert not [node.lineno for node in ast.walk(sources()[path]) if isinstance(node, ast.Global)]


def _coroutines(tree: ast.AST) -> Iterator[str]:
    return (node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef))


def _declared(tree: ast.AST) -> Iterator[str]:
    """The coroutines of Protocols."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
        ):
            yield from _coroutines(node)


def test_everything_is_caught_in_one_place() -> None:
    """The crash barrier around an exchange, and the one around trio's callbacks, which the other loops bring along; all
    others name what they expect."""
    everything = [
        path
        for path in FILES
        for node in ast.walk(sources()[path])
        if isinstance(node, ast.ExceptHandler) and (node.type is None or _names(node.type) & {"Exception"})
    ]
    assert everything == ["edge/connection.py", "edge/runtime_trio.py"]


def test_whatever_is_caught_for_cleaning_up_is_raised_again() -> None:
    for path in FILES:
        for node in ast.walk(sources()[path]):
            if isinstance(node, ast.ExceptHandler) and node.type is not None and _names(node.type) & {"BaseException"}:
                assert any(isinstance(each, ast.Raise) for each in ast.walk(node)), f"{path}:{node.lineno}"


def _names(node: ast.expr) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


@pytest.mark.parametrize("path", FILES)
def test_annotations_are_never_evaluated(path: str) -> None:
    """Names for the type checker alone cost nothing at run time, and cannot be missing there."""
    tree = sources()[path]
    if any(isinstance(node, ast.arg) for node in ast.walk(tree)):
        assert "__future__.annotations" in imports(tree)
