"""The OpenAI SDK takes the simulator for an OpenAI-compatible upstream, sync and async."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import openai
import pytest

from qproxy.simulator import Options, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.anyio,
    # The SDK leaves the generators of a stream to the garbage collector, which trio reports.
    pytest.mark.filterwarnings("ignore:Async generator .(httpx|httpcore|openai):ResourceWarning"),
]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {}}}},
    }
]


@asynccontextmanager
async def sdk(options: Options | None = None) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        running(options) as simulator,
        openai.AsyncOpenAI(api_key="sk-1", base_url=simulator.base_url, max_retries=0) as client,
    ):
        yield client


async def test_chat_whole_streamed_and_with_tools() -> None:
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    async with sdk(Options(tokens=3, keys=frozenset({"sk-1"}))) as client:
        whole = await client.chat.completions.create(model="qwen-plus", messages=messages)
        assert whole.choices[0].message.content == "Hello from the"
        stream = await client.chat.completions.create(
            model="qwen-plus", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello from the"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3
        called = await client.chat.completions.create(model="qwen-plus", messages=messages, tools=TOOLS)
        assert called.choices[0].finish_reason == "tool_calls"


async def test_the_sdk_puts_streamed_tool_calls_together() -> None:
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    async with sdk() as client, client.chat.completions.stream(model="q", messages=messages, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert (calls[0].function.name, calls[0].function.arguments) == ("get_weather", '{"city":"通义 sample"}')


async def test_responses_are_understood() -> None:
    async with sdk(Options(tokens=3)) as client:
        whole = await client.responses.create(model="qwen3.8-flash", input="hi")
        assert whole.output_text == "Hello from the"
        stream = await client.responses.create(model="qwen3.8-flash", input="hi", stream=True)
        kinds = [event.type async for event in stream]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


async def test_embeddings_models_and_files() -> None:
    async with sdk() as client:
        packed = await client.embeddings.create(model="text-embedding-v4", input=["a", "b"])
        plain = await client.embeddings.create(model="text-embedding-v4", input="a", encoding_format="float")
        assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
        assert "qwen3-coder-plus" in [model.id async for model in client.models.list()]
        file = await client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
        assert (file.bytes, (await client.files.content(file.id)).content) == (3, b"{}\n")


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("sim-400-context", openai.BadRequestError),
        ("sim-401", openai.AuthenticationError),
        ("sim-403-quota", openai.PermissionDeniedError),
        ("sim-404-model", openai.NotFoundError),
        ("sim-429-quota", openai.RateLimitError),
        ("sim-500", openai.InternalServerError),
        ("sim-reset-before-head", openai.APIConnectionError),
    ],
)
async def test_errors_become_the_classes_of_the_sdk(model: str, error: type[Exception]) -> None:
    async with sdk() as client:
        with pytest.raises(error):
            await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])


async def test_an_error_inside_a_stream_is_raised() -> None:
    async with sdk() as client:
        stream = await client.chat.completions.create(
            model="sim-error-in-stream", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="Internal server error"):
            [chunk async for chunk in stream]


async def test_the_sync_client_in_a_thread() -> None:
    def chat(base_url: str) -> str:
        with openai.OpenAI(api_key="sk-1", base_url=base_url, max_retries=0) as client:
            messages: list[Any] = [{"role": "user", "content": "hi"}]
            stream = client.chat.completions.create(model="qwen-plus", messages=messages, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    async with running(Options(tokens=3)) as simulator:
        assert await anyio.to_thread.run_sync(chat, simulator.base_url) == "Hello from the"
