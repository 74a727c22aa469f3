"""The model list of several upstreams: merged, cached, kept while an upstream fails; and where its names lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson
import pytest

from qproxy import app
from qproxy.endpoints.catalogue import FAILURE_S, LIFETIME_S
from qproxy.simulator import Options, Simulator, running
from tests.support.raw_client import RawClient, post, raw_client, request_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fidelity.conftest import Configure

pytestmark = pytest.mark.anyio
LIST = request_head("GET", "/v1/models")


class Two(NamedTuple):
    """Two upstreams and the proxy in front of them; `far` is the default one."""

    far: Simulator
    near: Simulator
    proxy: app.Running
    client: RawClient

    async def ids(self) -> list[str]:
        got = await self.client.ask(LIST)
        assert got.status == 200, bytes(got.body)
        return [model["id"] for model in orjson.loads(bytes(got.body))["data"]]

    def fail(self, simulator: Simulator, times: int = 1) -> None:
        simulator.fail_next("500", times=times, path="/models")

    def wait(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts the catalogue's clock forward."""
        catalogue = self.proxy.app.catalogue
        clock = catalogue._clock
        monkeypatch.setattr(catalogue, "_clock", lambda: clock() + seconds)


@pytest.fixture
async def two(configure: Configure) -> AsyncIterator[Two]:
    far_options = Options(models=("qwen3-max", "shared"), keys=frozenset({"far-key"}))
    near_options = Options(models=("shared", "org/tiny"), keys=frozenset({"near-key"}))
    async with running(far_options) as far, running(near_options) as near:
        toml = f"""
            upstream = "far"
            [upstreams.near]
            url = "{near.base_url}"
            key = "near-key"
            [upstreams.far]
            url = "{far.base_url}"
            key = "far-key"
            """
        async with app.running(configure(toml)) as proxy, raw_client(proxy.url) as client:
            yield Two(far, near, proxy, client)


async def test_lists_are_merged_the_default_upstreams_first(two: Two) -> None:
    assert await two.ids() == ["qwen3-max", "shared", "near:shared", "org/tiny"]


async def test_each_upstream_is_asked_once_with_its_own_key(two: Two) -> None:
    for _ in range(3):
        await two.ids()
    assert [simulator.counters.requests for simulator in (two.far, two.near)] == [1, 1]
    assert (two.far.requests[0].head.bearer, two.near.requests[0].head.bearer) == ("far-key", "near-key")


@pytest.mark.parametrize(
    ("asked", "upstream", "own"),
    [("shared", "far", "shared"), ("near:shared", "near", "shared"), ("near:org/tiny", "near", "org/tiny")],
)
async def test_a_listed_name_leads_to_its_upstream(two: Two, asked: str, upstream: str, own: str) -> None:
    assert (await two.client.ask(request_head("GET", f"/v1/models/{asked}"))).status == 200
    got = await two.client.ask(post("/v1/embeddings", b'{"model":"%b","input":"x"}' % asked.encode()))
    assert got.status == 200
    assert getattr(two, upstream).requests[-1].body == b'{"model":"%b","input":"x"}' % own.encode()


async def test_a_single_model_is_found_in_either_spelling(two: Two) -> None:
    for path in ("/v1/models/org/tiny", "/v1/models/org%2Ftiny"):
        got = await two.client.ask(request_head("GET", path))
        assert (got.status, orjson.loads(bytes(got.body))["qproxy"]) == (200, {"upstream": "near"})
    missing = await two.client.ask(request_head("GET", "/v1/models/org/tina"))
    assert (missing.status, missing.error_code, b"org/tiny" in missing.body) == (404, "model_not_found", True)


async def test_a_list_is_asked_for_again_when_it_is_old(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    await two.ids()
    two.wait(LIFETIME_S, monkeypatch)
    await two.ids()
    assert [simulator.counters.requests for simulator in (two.far, two.near)] == [2, 2]


async def test_an_old_list_is_served_while_its_upstream_fails(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await two.ids()
    two.wait(LIFETIME_S, monkeypatch)
    two.fail(two.near)
    assert await two.ids() == whole
    assert await two.ids() == whole
    assert two.near.counters.requests == 2
    two.wait(FAILURE_S, monkeypatch)
    assert await two.ids() == whole
    assert two.near.counters.requests == 3


async def test_an_upstream_that_never_gave_a_list_is_left_out_for_a_while(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.fail(two.near)
    assert await two.ids() == ["qwen3-max", "shared"]
    two.wait(FAILURE_S, monkeypatch)
    assert await two.ids() == ["qwen3-max", "shared", "near:shared", "org/tiny"]


async def test_where_no_upstream_gives_a_list_the_first_error_is_told(two: Two) -> None:
    two.fail(two.far)
    two.fail(two.near)
    got = await two.client.ask(LIST)
    assert (got.status, got.error_code) == (502, "upstream_protocol_error")
