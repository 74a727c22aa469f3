"""The official Python SDK, blocking: every other endpoint, those that are only forwarded included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest
from openai.types.responses import FunctionToolParam

from qproxy.simulator import Options
from qproxy.simulator.embeddings import embed
from qproxy.simulator.text import arguments_for, tokens
from tests.support.sdk_stage import CLIENT_KEY, UPSTREAM_KEY, Stage, stage_on

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = "".join(tokens(16))


def test_embeddings_as_numbers_and_packed(client: openai.OpenAI, stage: Stage) -> None:
    packed = client.embeddings.create(model="text-embedding-v4", input=["a", "通义"], dimensions=64)
    assert stage.last_request.json()["encoding_format"] == "base64"
    plain = client.embeddings.create(model="text-embedding-v4", input="通义", dimensions=64, encoding_format="float")
    assert plain.data[0].embedding == embed("通义", 64)
    assert packed.data[1].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert [row.index for row in packed.data] == [0, 1]


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="qwen3-coder-plus", prompt="def f():", suffix="return 1")
    assert whole.choices[0].text == ANSWER
    stream = client.completions.create(model="qwen3-coder-plus", prompt="def f():", stream=True)
    assert [chunk.choices[0].text for chunk in stream if chunk.choices[0].text] == tokens(16)


def test_responses(client: openai.OpenAI) -> None:
    assert client.responses.create(model="qwen3.8-flash", input="hi").output_text == ANSWER
    stream = client.responses.create(model="qwen3.8-flash", input="hi", stream=True)
    events = list(stream)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_function_call_of_responses(client: openai.OpenAI) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool: FunctionToolParam = {"type": "function", "name": "get_weather", "parameters": schema, "strict": None}
    with client.responses.stream(model="qwen3.8-flash", input="hi", tools=[tool]) as stream:
        item = stream.get_final_response().output[0]
    assert item.type == "function_call"
    assert (item.name, item.arguments) == ("get_weather", arguments_for(schema))


def test_models(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids == list(Options().models)
    model = client.models.retrieve("qwen3-coder-plus")
    assert (model.id, model.object, model.owned_by) == ("qwen3-coder-plus", "model", "qwen")
    with pytest.raises(openai.NotFoundError, match="qwen3-coder-plus") as caught:
        client.models.retrieve("qwen3-coder-plu")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_model_whose_name_has_a_slash(backend: str) -> None:
    options = Options(models=("kimi/kimi-k3",), keys=frozenset({UPSTREAM_KEY}))
    with (
        stage_on(backend, options) as stage,
        openai.OpenAI(base_url=stage.base_url, api_key=CLIENT_KEY, max_retries=0) as client,
    ):
        assert client.models.retrieve("kimi/kimi-k3").id == "kimi/kimi-k3"


def test_files_go_up_and_come_down_to_the_byte(client: openai.OpenAI, stage: Stage) -> None:
    content = bytes(range(256)) * 2048 + b"\r\n--"
    file = client.files.create(file=("數據.jsonl", content), purpose="batch")
    assert (file.bytes, file.purpose) == (len(content), "batch")
    assert stage.last_request.header("content-type").startswith("multipart/form-data; boundary=")
    assert client.files.content(file.id).content == content
    assert file.id in [each.id for each in client.files.list()]
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": ""}
    )
    assert client.batches.retrieve(batch.id).input_file_id == file.id
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_file_from_disk_is_streamed_through(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(b"RIFF" * 300_000)
    assert client.audio.transcriptions.create(model="qwen3-asr", file=path).text == "1200000 bytes of sound"


def test_speech_and_images(client: openai.OpenAI) -> None:
    spoken = client.audio.speech.create(model="qwen3-tts", voice="alloy", input="hi").read()
    assert spoken == bytes(range(256)) * 16
    image = client.images.generate(model="qwen-image", prompt="a cat")
    assert image.data is not None
    assert str(image.data[0].url).endswith(".png")


def test_rerank_has_no_method_and_passes_all_the_same(client: openai.OpenAI) -> None:
    documents = ["a", "通义", "b"]
    ranked = client.post(
        "/rerank", body={"model": "qwen3-rerank", "query": "通义", "documents": documents}, cast_to=dict[str, object]
    )
    results = ranked["results"]
    assert isinstance(results, list)
    assert results[0]["index"] == 1
