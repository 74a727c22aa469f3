"""An edit that the settings declare changes its own bytes of the body, and not one more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qproxy import app
from qproxy.config import load
from qproxy.simulator import Simulator, running
from tests.support.json_texts import OTHER_ENTRIES, SPACES, Entry, entries, written
from tests.support.live import NOWHERE
from tests.support.raw_client import cut_at, post, raw_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
OFTEN = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CUTS = st.lists(st.integers(0, 2**20), max_size=4)
OTHERS = st.lists(OTHER_ENTRIES.filter(lambda entry: json.loads(entry.key) != "stream_options"), max_size=4)
LONG = st.sampled_from([0, 0, 0, 300_000])
"""Bytes of a member that may take a body over the limit up to which it is checked whole."""
TABLE = """
[models]
"asked" = "qwen3-coder-plus"
"local/*" = "mine:org/*"
"""


@pytest.fixture(scope="module")
async def local(anyio_backend: object) -> AsyncIterator[Simulator]:
    """The second upstream, `mine`."""
    async with running() as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def editing(
    simulator: Simulator, local: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[app.Running]:
    """A proxy that renames, fills in the model and asks for usage."""
    path = tmp_path_factory.mktemp("editing") / "qproxy.toml"
    path.write_text(f'{TABLE}\n[upstreams.mine]\nurl = "{local.base_url}"\n', encoding="utf-8")
    flags = {"config": str(path), "upstream": simulator.base_url, "port": 0, "access_log": "off"}
    given_settings = load({**flags, "default_model": "qwen-plus", "include_usage": True}, {}, NOWHERE, NOWHERE)
    async with app.running(given_settings) as proxy:
        yield proxy


async def went_up(proxy: app.Running, upstream: Simulator, body: bytes, cuts: list[int]) -> bytes:
    """What the upstream received in place of `body`."""
    before = upstream.counters.requests
    async with raw_client(proxy.url) as client:
        await client.send(*cut_at(post("/v1/chat/completions", body), cuts))
        answer = await client.answer()
    assert upstream.counters.requests == before + 1, bytes(answer.body)
    request = upstream.requests[-1]
    assert int(request.header("content-length")) == len(request.body)
    return request.body


def with_padding(members: list[Entry], size: int) -> list[Entry]:
    return [*members, Entry('"pad"', ":", json.dumps("p" * size), "")] if size else members


@OFTEN
@given(before=OTHERS, after=OTHERS, spelling=entries([r'"model"', r'"m\u006fdel"'], st.just("{}")), pad=LONG, cuts=CUTS)
@pytest.mark.parametrize(
    ("asked", "sent"),
    [('"asked"', '"qwen3-coder-plus"'), (r'"\u0061sked"', '"qwen3-coder-plus"'), ('"default:x"', '"x"')],
)
async def test_a_rename_replaces_the_models_literal(
    editing: app.Running,
    simulator: Simulator,
    asked: str,
    sent: str,
    before: list[Entry],
    after: list[Entry],
    spelling: Entry,
    pad: int,
    cuts: list[int],
) -> None:
    def body(model: str) -> bytes:
        return written([*with_padding(before, pad), spelling._replace(value=model), *after]).encode()

    assert await went_up(editing, simulator, body(asked), cuts) == body(sent)


async def test_a_prefix_leads_to_another_upstream_under_another_name(
    editing: app.Running, simulator: Simulator, local: Simulator
) -> None:
    before = simulator.counters.requests
    body = b'{ "model" :"local/qwen3", "model_":"local/qwen3","temperature":0 }'
    expected = body.replace(b'"local/qwen3"', b'"org/qwen3"', 1)
    assert await went_up(editing, local, body, []) == expected
    assert simulator.counters.requests == before


@OFTEN
@given(members=OTHERS, space=SPACES, outside=SPACES, pad=LONG, cuts=CUTS)
async def test_a_missing_model_is_put_in_front(
    editing: app.Running,
    simulator: Simulator,
    members: list[Entry],
    space: str,
    outside: str,
    pad: int,
    cuts: list[int],
) -> None:
    members = with_padding(members, pad)
    default = '"model":"qwen-plus"' + ("," if members else "")
    sent = outside + written(members, space) + outside
    expected = outside + written(members, space, first=default) + outside
    assert await went_up(editing, simulator, sent.encode(), cuts) == expected.encode()


@pytest.mark.parametrize("model", ["null", "0", "[]", '""', r'"\ud800"'])
async def test_a_model_that_is_there_is_not_filled_in(editing: app.Running, simulator: Simulator, model: str) -> None:
    body = f'{{"model":{model},"messages":[]}}'.encode()
    assert await went_up(editing, simulator, body, []) == body


@OFTEN
@given(others=OTHERS, space=SPACES, pad=LONG, cuts=CUTS)
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("{}", '{"include_usage":true}'),
        ("null", '{"include_usage":true}'),
        ('{"include_usage" : false }', '{"include_usage" : true }'),
        ('{"include_usage":null,"x":1e0}', '{"include_usage":true,"x":1e0}'),
        ('{ "x":[1 ]}', '{"include_usage":true, "x":[1 ]}'),
        ('{"include_usage":true}', '{"include_usage":true}'),
        ("7", "7"),
    ],
)
async def test_usage_is_asked_for_on_streams(
    editing: app.Running,
    simulator: Simulator,
    options: str,
    wanted: str,
    others: list[Entry],
    space: str,
    pad: int,
    cuts: list[int],
) -> None:
    def body(value: str) -> bytes:
        fixed = [Entry('"model"', ":", '"m"', ""), Entry('"stream"', " : ", "true", "")]
        return written([*fixed, *with_padding(others, pad), Entry('"stream_options"', ": ", value, space)]).encode()

    assert await went_up(editing, simulator, body(options), cuts) == body(wanted)


async def test_usage_is_added_where_there_are_no_options(editing: app.Running, simulator: Simulator) -> None:
    body = b' {"model":"m" , "stream": true,"a":{"stream_options":null}}'
    expected = body.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)
    assert await went_up(editing, simulator, body, []) == expected


@pytest.mark.parametrize("stream", ["false", "null", "1", '"true"'])
async def test_usage_is_not_asked_for_elsewhere(editing: app.Running, simulator: Simulator, stream: str) -> None:
    body = f'{{"model":"m","stream":{stream},"stream_options":{{"include_usage":false}}}}'.encode()
    assert await went_up(editing, simulator, body, []) == body


async def test_all_edits_at_once(editing: app.Running, simulator: Simulator) -> None:
    body = b'{"stream":true,"seed":-0.0,"stop":""}'
    expected = b'{"model":"qwen-plus","stream_options":{"include_usage":true},"stream":true,"seed":-0.0,"stop":""}'
    assert await went_up(editing, simulator, body, []) == expected
