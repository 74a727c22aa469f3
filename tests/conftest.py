"""What all tests share: the three event loops, and that nothing is left behind."""

from __future__ import annotations

import functools
import gc
import inspect
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from qproxy.app import App
from qproxy.edge.runtime import run
from tests.support.leaks import PATIENCE_S, Belongings, Proxies, wait_until_gone
from tests.support.shell import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

HARMLESS = frozenset({
    "anyio_backend", "anyio_backend_name", "anyio_backend_options", "doctest_namespace", "every_loop_has_run",
    "no_module_leaves_anything", "proxies", "pytestconfig", "record_testsuite_property", "tmp_path_factory",
})  # fmt: skip
"""Fixtures for more than one test that hold nothing open."""


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(scope="session", autouse=True)
def every_loop_has_run() -> Iterator[None]:
    """libuv opens a pipe with its first loop, and keeps it to the end of the process.

    Thousands of collected tests are put out of the garbage collector's sight, which looks often.
    """
    for backend in BACKENDS:
        run(anyio.sleep, 0, backend=backend)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def proxies() -> Iterator[Proxies]:
    """All that are put together."""
    known = Proxies()
    put_together = App.__init__

    @functools.wraps(put_together)
    def put_together_and_known(self: App, *args: Any, **others: Any) -> None:
        put_together(self, *args, **others)
        known.add(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(App, "__init__", put_together_and_known)
        yield known


@pytest.fixture(scope="module", autouse=True)
def no_module_leaves_anything() -> Iterator[None]:
    """What its tests shared is gone as well."""
    before = Belongings.of_now()
    yield
    assert wait_until_gone(lambda: before.left_behind(descriptors=True)) == []


@pytest.fixture(autouse=True)
def no_test_leaves_anything(request: pytest.FixtureRequest, proxies: Proxies) -> Iterator[None]:
    """No request, no lease and no thread; and no descriptor, where nothing is shared that may keep connections."""
    before = Belongings.of_now()
    is_alone = not shares(request.node)
    yield
    assert wait_until_gone(lambda: before.left_behind(descriptors=is_alone)) == []
    assert wait_until_gone(lambda: ["request"] * proxies.requests() + ["lease"] * proxies.leases()) == []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """No task either, where no fixture may have some of its own."""
    if inspect.iscoroutinefunction(pyfuncitem.obj) and not any(map(inspect.isasyncgenfunction, functions(pyfuncitem))):
        pyfuncitem.obj = leaving_no_task(pyfuncitem.obj)
    return (yield)


def leaving_no_task(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(*args: Any, **others: Any) -> None:
        before = {each.id for each in anyio.get_running_tasks()}
        await test(*args, **others)
        with anyio.move_on_after(PATIENCE_S):  # loops close generators that were left alone in tasks
            while any(each.id not in before for each in anyio.get_running_tasks()):
                await anyio.sleep(0.005)
        assert [each.name for each in anyio.get_running_tasks() if each.id not in before] == []

    return run


def shares(item: pytest.Function) -> bool:
    """Whether it uses a fixture that other tests use, too."""
    wide = {name for name, found in item._fixtureinfo.name2fixturedefs.items() if found[-1].scope != "function"}
    return not wide <= HARMLESS


def functions(item: pytest.Function) -> list[object]:
    """Those of its fixtures."""
    return [found[-1].func for found in item._fixtureinfo.name2fixturedefs.values()]
