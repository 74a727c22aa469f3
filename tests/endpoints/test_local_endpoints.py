"""What the endpoints that qproxy answers itself say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
import pytest

from qproxy import __version__
from qproxy.core.catalogue import ModelEntry, merge, parse_listing
from qproxy.core.local import (
    AuthTest,
    CacheReport,
    LimitReport,
    LocalAnswer,
    LocalRequest,
    LocalServices,
    LoginStanding,
    OpenLogin,
    RatioReport,
    TokenReport,
    UpstreamHealth,
)
from qproxy.core.route import LocalEndpoint, RouteTable
from qproxy.core.tokens import Counted, Shape
from qproxy.endpoints import ENDPOINTS
from qproxy.errors import DownstreamError, InternalError, QProxyError

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio

TABLE = RouteTable(ENDPOINTS)
DRAINING = InternalError("draining", "This server is stopping.")


@dataclass
class FixedCatalogue:
    entries: list[ModelEntry]

    async def listing(self) -> Sequence[ModelEntry]:
        return self.entries


@dataclass
class FixedHealth:
    reason: QProxyError | None = None
    known: list[UpstreamHealth] = field(default_factory=list)
    down: Sequence[str] = ()

    def uptime_s(self) -> float:
        return 12.34567

    def upstreams(self) -> Sequence[UpstreamHealth]:
        return self.known

    def failing(self) -> Sequence[str]:
        return self.down

    def obstacle(self) -> QProxyError | None:
        return self.reason


class NoLogins:
    """What the endpoints in this file do not use."""

    async def begin(self, account: str) -> OpenLogin:
        raise NotImplementedError

    def standing(self, handle: str) -> LoginStanding:
        raise NotImplementedError


class NoDiagnosis:
    """The same."""

    def tokens(self) -> Sequence[TokenReport]:
        raise NotImplementedError

    async def test(self) -> AuthTest:
        raise NotImplementedError


class NoCounts:
    """The same."""

    async def count(
        self, body: bytes, shape: Shape, model: str | None = None, *, may_want_ids: bool = False
    ) -> Counted:
        raise NotImplementedError


class NoPrompts:
    """The same."""

    def ratios(self) -> Sequence[RatioReport]:
        raise NotImplementedError

    def limits(self) -> Sequence[LimitReport]:
        raise NotImplementedError

    def cache(self) -> Sequence[CacheReport]:
        raise NotImplementedError


MODELS = merge(
    [parse_listing(b'[{"id":"qwen3-max"},{"id":"kimi/kimi-k3"}]', "one"), parse_listing(b'[{"id":"qwen3-max"}]', "two")]
)


async def ask(path: bytes, health: FixedHealth | None = None) -> LocalAnswer:
    route = TABLE.match(b"GET", path)
    assert isinstance(route.endpoint, LocalEndpoint)
    services = LocalServices(
        FixedCatalogue(MODELS),
        health or FixedHealth(),
        NoLogins(),
        NoDiagnosis(),
        NoPrompts(),
        NoCounts(),
        lambda _: None,
    )
    return await route.endpoint.answer(LocalRequest(b"GET", path, route.tail, b"", services))


@pytest.mark.parametrize("path", [b"/", b"/health", b"/livez", b"/readyz", b"/v1/models", b"/v1/models/qwen3-max"])
async def test_every_answer_is_json(path: bytes) -> None:
    answer = await ask(path)
    assert answer.status == 200
    assert answer.headers == ((b"content-type", b"application/json"),)
    assert isinstance(orjson.loads(answer.body), dict)


async def test_the_root_says_where_to_go() -> None:
    said = orjson.loads((await ask(b"/")).body)
    assert (said["name"], said["version"]) == ("qproxy", __version__)
    for path in said["links"].values():
        assert TABLE.allow(path.encode())


async def test_health_shows_version_upstreams_and_uptime() -> None:
    health = FixedHealth(known=[UpstreamHealth("mine", "openai", "key set")])
    assert orjson.loads((await ask(b"/health", health)).body) == {
        "status": "ok",
        "version": __version__,
        "upstreams": [{"name": "mine", "kind": "openai", "state": "key set"}],
        "uptime_s": 12.346,
    }


async def test_health_names_what_keeps_work_away_and_readiness_refuses() -> None:
    health = FixedHealth(DRAINING)
    answer = await ask(b"/health", health)
    assert answer.status == 200
    assert orjson.loads(answer.body)["status"] == "draining"
    assert (await ask(b"/livez", health)).status == 200
    with pytest.raises(InternalError) as caught:
        await ask(b"/readyz", health)
    assert caught.value.kind.status == 503


async def test_readiness_says_which_upstreams_are_left_alone() -> None:
    answer = await ask(b"/readyz", FixedHealth(down=("mine", "other")))
    assert (answer.status, orjson.loads(answer.body)) == (200, {"status": "degraded", "failing": ["mine", "other"]})
    assert orjson.loads((await ask(b"/readyz", FixedHealth())).body) == {"status": "ok"}


async def test_models_are_listed() -> None:
    listing = orjson.loads((await ask(b"/v1/models")).body)
    assert [entry["id"] for entry in listing["data"]] == ["qwen3-max", "kimi/kimi-k3", "two:qwen3-max"]


@pytest.mark.parametrize(
    ("tail", "model"),
    [
        (b"qwen3-max", "qwen3-max"),
        (b"kimi/kimi-k3", "kimi/kimi-k3"),
        (b"kimi%2Fkimi-k3", "kimi/kimi-k3"),
        (b"two:qwen3-max", "two:qwen3-max"),
        (b"two%3aqwen3-max", "two:qwen3-max"),
    ],
)
async def test_a_model_is_retrieved_by_its_id(tail: bytes, model: str) -> None:
    assert orjson.loads((await ask(b"/v1/models/" + tail)).body)["id"] == model


@pytest.mark.parametrize("tail", [b"qwen3-maxx", b"%ff", b"..", b"../health", b"%2e%2e%2fhealth", b"%00", b"%"])
async def test_an_unknown_model_is_not_found(tail: bytes) -> None:
    with pytest.raises(DownstreamError) as caught:
        await ask(b"/v1/models/" + tail)
    assert caught.value.code == "model_not_found"
