"""The official Python SDK, async: on asyncio, uvloop and trio, unmodified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import openai
import pytest

from qproxy.simulator.text import arguments_for, tokens

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

    from tests.support.sdk_stage import Stage

pytestmark = [
    pytest.mark.anyio,
    # The SDK leaves the generators of a stream to the garbage collector, which trio reports.
    pytest.mark.filterwarnings("ignore:Async generator .(httpx|httpcore|openai):ResourceWarning"),
]
ANSWER = "".join(tokens(16))
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[ChatCompletionToolParam] = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]


async def streamed(client: openai.AsyncOpenAI, **more: Any) -> str:
    async with await client.chat.completions.create(model="qwen3-max", messages=HI, stream=True, **more) as stream:
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_chat_plain_and_streamed(async_client: openai.AsyncOpenAI) -> None:
    whole = await async_client.chat.completions.create(model="qwen3-max", messages=HI)
    assert whole.choices[0].message.content == ANSWER
    assert await streamed(async_client) == ANSWER


async def test_tools_plain_and_streamed(async_client: openai.AsyncOpenAI) -> None:
    whole = await async_client.chat.completions.create(model="qwen3-max", messages=HI, tools=TOOLS)
    async with async_client.chat.completions.stream(model="qwen3-max", messages=HI, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    for message in (whole.choices[0].message, final.choices[0].message):
        assert message.tool_calls is not None
        assert message.tool_calls[0].type == "function"
        assert message.tool_calls[0].function.arguments == arguments_for(SCHEMA)


async def test_many_streams_at_once(async_client: openai.AsyncOpenAI) -> None:
    texts: list[str] = []

    async def one(number: int) -> None:
        texts.append(await streamed(async_client, n=1, user=str(number)))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(one, number)
    assert texts == [ANSWER] * 20


async def test_a_cancelled_stream_is_cancelled_upstream(async_client: openai.AsyncOpenAI, stage: Stage) -> None:
    before = stage.simulator.counters.aborted

    async def reads_for_ever() -> None:
        async with await async_client.chat.completions.create(model="sim-stall", messages=HI, stream=True) as stream:
            async for _ in stream:
                begun.set()

    begun = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reads_for_ever)
        await begun.wait()
        tasks.cancel_scope.cancel()
    await anyio.to_thread.run_sync(stage.until, lambda counters: counters.aborted == before + 1)
    assert await streamed(async_client) == ANSWER


async def test_raw_responses(async_client: openai.AsyncOpenAI) -> None:
    raw = await async_client.chat.completions.with_raw_response.create(model="qwen3-max", messages=HI)
    assert raw.headers["x-dashscope-call-gateway"] == "true"
    completion = raw.parse()
    assert completion.choices[0].message.content == ANSWER
    create = async_client.chat.completions.with_streaming_response.create
    async with create(model="qwen3-max", messages=HI, stream=True) as streaming:
        assert streaming.headers["x-accel-buffering"] == "no"
        assert (await streaming.read()).endswith(b"data: [DONE]\n\n")


async def test_the_other_endpoints(async_client: openai.AsyncOpenAI) -> None:
    vectors = await async_client.embeddings.create(model="text-embedding-v4", input=["a", "b"])
    assert [len(row.embedding) for row in vectors.data] == [1024, 1024]
    completion = await async_client.completions.create(model="qwen3-coder-plus", prompt="x")
    assert completion.choices[0].text == ANSWER
    events = await async_client.responses.create(model="qwen3.8-flash", input="hi", stream=True)
    assert [event.type async for event in events][-1] == "response.completed"
    assert "qwen3-max" in [model.id async for model in async_client.models.list()]
    file = await async_client.files.create(file=("a.bin", bytes(range(256)) * 999), purpose="batch")
    assert (await async_client.files.content(file.id)).content == bytes(range(256)) * 999


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("sim-400", openai.BadRequestError),
        ("sim-404-model", openai.NotFoundError),
        ("sim-429-quota", openai.RateLimitError),
        ("sim-reset-before-head", openai.InternalServerError),
    ],
)
async def test_errors_before_an_answer(
    async_client: openai.AsyncOpenAI, model: str, error: type[openai.APIError]
) -> None:
    for stream in (False, True):
        with pytest.raises(error):
            await async_client.chat.completions.create(model=model, messages=HI, stream=stream)


@pytest.mark.parametrize("scenario", ["cut", "truncate", "reset", "cut-in-event"])
async def test_a_broken_stream_never_looks_complete(async_client: openai.AsyncOpenAI, scenario: str) -> None:
    got: list[str] = []

    async def read() -> None:
        create = async_client.chat.completions.create
        async with await create(model=f"sim-{scenario}", messages=HI, stream=True) as stream:
            async for chunk in stream:
                got.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came before the break counts

    with pytest.raises(openai.APIError):
        await read()
    assert ANSWER.startswith("".join(got))
    assert got[:3] == ["", "Hello", " from"]
