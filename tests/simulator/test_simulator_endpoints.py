"""The other endpoints: completions, embeddings, rerank, responses, models, files, batches, media."""

from __future__ import annotations

import base64
import math
import struct

import pytest

from qproxy.simulator import Options, running
from tests.support.http_client import http_client

pytestmark = pytest.mark.anyio


async def test_both_prefixes_lead_to_the_model_list() -> None:
    async with running(Options(models=("a", "vendor/b"))) as simulator, http_client(simulator.url) as client:
        short = await client.get("/v1/models")
        long = await client.get("/compatible-mode/v1/models")
        one = await client.get("/v1/models/vendor/b")
        missing = await client.get("/v1/models/c")
        nowhere = await client.get("/v2/models")
    assert [model["id"] for model in short.json()["data"]] == ["a", "vendor/b"]
    assert long.json() == short.json()
    assert one.json() == {"id": "vendor/b", "object": "model", "created": 1754686206, "owned_by": "qwen"}
    assert (missing.status, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert nowhere.status == 404


async def test_completions_whole_and_streamed() -> None:
    ask = {"model": "qwen2.5-coder-32b-instruct", "prompt": "def f"}
    async with running(Options(tokens=3)) as simulator, http_client(simulator.base_url) as client:
        whole = await client.post("/completions", ask)
        stream = await client.post("/completions", {**ask, "stream": True, "stream_options": {"include_usage": True}})
        refused = await client.post("/completions", {"model": "x"})
    assert whole.json()["choices"][0]["text"] == "Hello from the"
    *parts, usage = stream.events()
    assert "".join(event["choices"][0]["text"] for event in parts) == "Hello from the"
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["completion_tokens"] == 3
    assert refused.status == 400


async def test_embeddings_depend_on_the_text_alone() -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        ask = {"model": "text-embedding-v4", "dimensions": 64}
        batch = await client.post("/embeddings", {**ask, "input": ["a", "b"]})
        single = await client.post("/embeddings", {**ask, "input": "a"})
        packed = await client.post("/embeddings", {**ask, "input": "a", "encoding_format": "base64"})
        numbers = await client.post("/embeddings", {"model": "text-embedding-v4", "input": [1, 2, 3]})
    first, second = (row["embedding"] for row in batch.json()["data"])
    assert first == single.json()["data"][0]["embedding"] != second
    assert math.isclose(sum(number * number for number in first), 1.0)
    unpacked = struct.unpack("<64f", base64.b64decode(packed.json()["data"][0]["embedding"]))
    assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(first, unpacked, strict=True))
    assert len(numbers.json()["data"]) == 1
    assert len(numbers.json()["data"][0]["embedding"]) == 1024


@pytest.mark.parametrize("change", [{"input": ["x"] * 11}, {"input": []}, {"dimensions": 63}, {"model": ""}])
async def test_embeddings_that_are_refused(change: dict[str, object]) -> None:
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post("/embeddings", {"model": "text-embedding-v4", "input": "a", **change})
    assert answer.status == 400


async def test_rerank_puts_the_same_text_first() -> None:
    ask = {"model": "qwen3-rerank", "query": "b", "documents": ["a", "b", {"text": "c"}], "top_n": 2}
    async with running() as simulator, http_client(simulator.base_url) as client:
        answer = await client.post("/rerank", ask)
        refused = await client.post("/rerank", {**ask, "documents": []})
    results = answer.json()["results"]
    assert (len(results), results[0]["index"]) == (2, 1)
    assert math.isclose(results[0]["relevance_score"], 1.0)
    assert refused.status == 400


async def test_responses_stream_in_the_order_of_the_api() -> None:
    ask = {"model": "qwen3.8-flash", "input": "hi"}
    async with running(Options(tokens=2)) as simulator, http_client(simulator.base_url) as client:
        whole = await client.post("/responses", ask)
        stream = await client.post("/responses", {**ask, "stream": True})
        refused = await client.post("/responses", {"model": "x"})
    events = stream.events()
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello from"
    assert whole.json()["output"][0]["content"][0]["text"] == "Hello from"
    assert refused.status == 400
    names = [line.removeprefix(b"event: ") for line in stream.content.splitlines() if line.startswith(b"event: ")]
    assert [name.decode() for name in names] == [event["type"] for event in events]


async def test_responses_call_a_function() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}
    ask = {"model": "qwen3.8-flash", "input": [{"role": "user", "content": "hi"}], "tools": [tool]}
    async with running() as simulator, http_client(simulator.base_url) as client:
        stream = await client.post("/responses", {**ask, "stream": True})
        done = await client.post("/responses", {**ask, "input": [{"type": "function_call_output", "output": "1"}]})
        cut = await client.post("/responses", {**ask, "tools": [], "max_output_tokens": 1})
    events = stream.events()
    fragments = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    item = events[-1]["response"]["output"][0]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "f", '{"x":1.5}')
    assert "".join(fragments) == item["arguments"]
    assert done.json()["output"][0]["type"] == "message"
    assert (cut.json()["status"], cut.json()["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def form(content: bytes) -> tuple[bytes, str]:
    boundary = "x-boundary-x"
    head = b'Content-Disposition: form-data; name="file"; filename="b.jsonl"\r\nContent-Type: text/plain\r\n\r\n'
    purpose = b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch'
    body = b"--%b\r\n%b\r\n--%b\r\n%b\r\n--%b--\r\n" % (
        (mark := boundary.encode()),
        purpose,
        mark,
        head + content,
        mark,
    )
    return body, f"multipart/form-data; boundary={boundary}"


async def test_files_and_batches() -> None:
    content = b'{"a": 1}\r\n--x-boundary\r\n\x00\xff'
    body, kind = form(content)
    async with running() as simulator, http_client(simulator.base_url) as client:
        file = (await client.ask("POST", "/files", body, {"content-type": kind})).json()
        listed = await client.get("/files")
        back = await client.get(f"/files/{file['id']}/content")
        batch = await client.post("/batches", {"input_file_id": file["id"], "endpoint": "/v1/chat/completions"})
        again = await client.get(f"/batches/{batch.json()['id']}")
        batches = await client.get("/batches")
        gone = await client.ask("DELETE", f"/files/{file['id']}", b"", {})
        missing = await client.get(f"/files/{file['id']}")
        broken = await client.ask("POST", "/files", body[:-10], {"content-type": kind})
    assert (file["bytes"], file["filename"], file["purpose"]) == (len(content), "b.jsonl", "batch")
    assert listed.json()["data"] == [file]
    assert back.content == content
    assert again.json() == batch.json() == batches.json()["data"][0]
    assert gone.json()["deleted"] is True
    assert missing.status == 404
    assert broken.status == 400


async def test_media_paths_answer() -> None:
    body, kind = form(b"\x00" * 1000)
    async with running() as simulator, http_client(simulator.base_url) as client:
        sound = await client.post("/audio/speech", {"model": "qwen-tts", "input": "hi"})
        heard = await client.ask("POST", "/audio/transcriptions", body, {"content-type": kind})
        image = await client.post("/images/generations", {"model": "qwen-image", "prompt": "a cat"})
    assert (sound.header("content-type"), len(sound.content)) == ("audio/mpeg", 4096)
    assert heard.json() == {"text": "1000 bytes of sound"}
    assert image.json()["data"][0]["url"].endswith(".png")
