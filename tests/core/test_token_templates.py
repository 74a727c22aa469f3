"""Messages count as the text that the model's template makes of them.

The expected texts follow `chat_template` of the published tokenizer_config.json of Qwen2.5-7B-Instruct and Qwen3-8B,
carried out by hand.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from qproxy.core.tokens import NotCountable, Shape
from qproxy.core.tokens.body import count_body
from qproxy.core.tokens.chat import IMAGE_TOKENS
from qproxy.core.tokens.template import is_exact_for, template_for
from tests.support.vocabulary import counted, ids_of_rendered, qwen

SYSTEM_2_5 = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
ASKED = "<|im_start|>assistant\n"
USER = {"role": "user", "content": "Hi 你好!\n"}
USER_TEXT = "<|im_start|>user\nHi 你好!\n<|im_end|>\n"
SYSTEM = {"role": "system", "content": "Be brief.\n"}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"städte": {"type": "array"}}}},
}
TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": '
    '{"städte": {"type": "array"}}}}}'
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call><|im_end|>\n"
)
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"städte":["Köln",  "Ulm"]}'}},
]}  # fmt: skip
CALL_TEXT = (
    "<|im_start|>assistant\n"
    '<tool_call>\n{"name": "weather", "arguments": {"städte": ["Köln", "Ulm"]}}\n</tool_call><|im_end|>\n'
)
ANSWERS = [{"role": "tool", "tool_call_id": "1", "content": "21°"}, {"role": "tool", "content": "3°"}]
ANSWERS_TEXT = (
    "<|im_start|>user\n<tool_response>\n21°\n</tool_response>\n<tool_response>\n3°\n</tool_response><|im_end|>\n"
)
THINKER = {"role": "assistant", "content": "42", "reasoning_content": "\nsix times nine\n"}


def ids_of(model: str, **fields: Any) -> list[int]:
    body = orjson.dumps({**fields, "return_tokens": True})
    found = count_body(body, Shape.OPENAI, qwen(), model=model, may_want_ids=True)
    assert found.is_exact
    assert found.ids_json is not None
    ids: list[int] = orjson.loads(found.ids_json)
    assert found.tokens == len(ids)
    assert count_body(body, Shape.OPENAI, qwen(), model=model).tokens == len(ids)
    return ids


@pytest.mark.parametrize(
    ("model", "fields", "text"),
    [
        ("qwen2.5-7b", {"messages": [USER]}, f"{SYSTEM_2_5}<|im_end|>\n{USER_TEXT}{ASKED}"),
        ("qwen3-8b", {"messages": [USER]}, f"{USER_TEXT}{ASKED}"),
        ("qwen3-8b", {"messages": [SYSTEM, USER]}, f"<|im_start|>system\nBe brief.\n<|im_end|>\n{USER_TEXT}{ASKED}"),
        ("qwen3-8b", {"messages": [USER, SYSTEM]}, f"{USER_TEXT}<|im_start|>system\nBe brief.\n<|im_end|>\n{ASKED}"),
        ("qwen3-8b", {"messages": [USER], "add_generation_prompt": False}, USER_TEXT),
        ("qwen3-8b", {"messages": [USER], "enable_thinking": False}, f"{USER_TEXT}{ASKED}<think>\n\n</think>\n\n"),
        (
            "qwen3-8b",
            {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}},
            f"{USER_TEXT}{ASKED}<think>\n\n</think>\n\n",
        ),
        ("qwen3-max", {"messages": [USER], "enable_thinking": False}, f"{USER_TEXT}{ASKED}"),
        (
            "qwen2.5-7b",
            {"messages": [USER], "tools": [WEATHER]},
            f"{SYSTEM_2_5}\n\n{TOOLS_BEFORE}{USER_TEXT}{ASKED}",
        ),
        ("qwen3-8b", {"messages": [USER], "tools": [WEATHER]}, f"<|im_start|>system\n{TOOLS_BEFORE}{USER_TEXT}{ASKED}"),
        (
            "qwen3-8b",
            {"tools": [WEATHER], "messages": [SYSTEM, USER]},
            f"<|im_start|>system\nBe brief.\n\n\n{TOOLS_BEFORE}{USER_TEXT}{ASKED}",
        ),
        ("qwen3-8b", {"messages": [USER, CALL, *ANSWERS]}, f"{USER_TEXT}{CALL_TEXT}{ANSWERS_TEXT}{ASKED}"),
        (
            "qwen3-8b",
            {"messages": [USER, {**CALL, "content": "Let me see."}, *ANSWERS, USER]},
            USER_TEXT + CALL_TEXT.replace("<tool", "Let me see.\n<tool", 1) + ANSWERS_TEXT + USER_TEXT + ASKED,
        ),
        (
            "qwen3-8b",
            {"messages": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n42"}, USER]},
            f"{USER_TEXT}<|im_start|>assistant\n42<|im_end|>\n{USER_TEXT}{ASKED}",
        ),
        (
            "qwen3-8b",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            f"<|im_start|>user\na\nb<|im_end|>\n{ASKED}",
        ),
    ],
)  # fmt: skip
def test_a_rendered_prompt(model: str, fields: dict[str, Any], text: str) -> None:
    assert ids_of(model, **fields) == ids_of_rendered(text)


def test_tags_of_answers_are_plain_text_to_2_5() -> None:
    """Its tokenizer has none for them (`qwen-wire.md` 9.2)."""
    text = f"{SYSTEM_2_5}<|im_end|>\n{USER_TEXT}{CALL_TEXT}".removesuffix(ASKED)
    ids = ids_of("qwen2.5-7b", messages=[USER, CALL, {"role": "tool", "content": "3°"}])
    answer = [*ids_of_rendered("<|im_start|>"), *qwen().ids("user\n<tool_response>\n3°\n</tool_response>")]
    assert ids == [*ids_of_rendered(text), *answer, *ids_of_rendered(f"<|im_end|>\n{ASKED}")]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([USER, THINKER], "<think>\nsix times nine\n</think>\n\n42<|im_end|>\n"),
        ([USER, {"role": "assistant", "content": "42"}], "<think>\n\n</think>\n\n42<|im_end|>\n"),
        ([USER, {**CALL, "reasoning_content": "hm"}, *ANSWERS],
         CALL_TEXT.removeprefix(ASKED).replace("<tool", "<think>\nhm\n</think>\n\n<tool", 1) + ANSWERS_TEXT),
        ([USER, THINKER, USER], f"42<|im_end|>\n{USER_TEXT}"),
    ],
)  # fmt: skip
def test_thoughts_since_the_last_question_are_part_of_the_prompt(messages: list[object], text: str) -> None:
    body = orjson.dumps({"messages": messages})
    assert counted(body).tokens == len(ids_of_rendered(f"{USER_TEXT}{ASKED}{text}{ASKED}"))


def test_special_tokens_in_what_a_user_says_are_text() -> None:
    body = orjson.dumps({"messages": [{"role": "user", "content": "<|im_end|><think>"}]})
    inside = qwen().count("user\n<|im_end|><think>")
    assert counted(body).tokens == 1 + inside + 1 + 1 + 3
    assert inside > 8


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}, {"type": "video"}]
)
def test_an_image_is_an_estimate(part: object) -> None:
    body = orjson.dumps({"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]})
    found = counted(body)
    assert not found.is_exact
    assert found.tokens == IMAGE_TOKENS + len(ids_of_rendered(f"<|im_start|>user\n<|im_end|>\n{ASKED}")) + 3


def test_tools_of_a_coder_are_no_exact_count() -> None:
    body = orjson.dumps({"messages": [USER], "tools": [WEATHER]})
    assert not counted(body, "qwen3-coder-plus").is_exact
    assert counted(orjson.dumps({"messages": [USER], "tools": []}), "qwen3-coder-plus").is_exact


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("qwen3-coder-plus", "qwen3-coder"), ("qwen3-max-2025-09-23", "qwen3-instruct"), ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen2.5"), ("qwen2-7b-instruct", "qwen2"), ("mine:qwen3-vl-plus", "qwen3"),
        ("qwen2.5:7b", "qwen2.5"), ("qwen3:30b-a3b-instruct-2507", "qwen3-instruct"),
    ],
)  # fmt: skip
def test_models_of_the_published_vocabulary(model: str, family: str) -> None:
    assert is_exact_for(model)
    assert template_for(model).name == family


@pytest.mark.parametrize(
    "model",
    ["", "qwen3.5-plus", "qwen3.6-flash", "qwen3.8-max-0902", "qwen3.10", "qwen35", "coder-model", "qwen-plus",
     "kimi/kimi-k3", "Qwen/Qwen3.8-27B", "qwen-turbo", "myqwen3", "deepseek-v4"],
)  # fmt: skip
def test_models_whose_vocabulary_is_another_one_or_not_known(model: str) -> None:
    assert not is_exact_for(model)
    assert not counted(orjson.dumps({"messages": [USER]}), model).is_exact


def test_prompts_of_completions() -> None:
    text = "Once upon a time, 今天"
    expected = qwen().count(text)
    for prompt, tokens in ((text, expected), ([text, text], 2 * expected), ([1, 2, 3], 3), ([[1, 2], [3]], 3), ([], 0)):
        assert counted(orjson.dumps({"prompt": prompt})).tokens == tokens
    assert ids_of("qwen3-8b", prompt=text) == qwen().ids(text)


def test_a_long_prompt_of_ids() -> None:
    assert counted(orjson.dumps({"prompt": list(range(200_000))})).tokens == 200_000
    with pytest.raises(NotCountable):
        counted(b'{"prompt": [1, "a"]}')


class TestAnthropic:
    def count(self, **fields: Any) -> int:
        return counted(orjson.dumps(fields), "qwen3-8b", Shape.ANTHROPIC).tokens

    def test_text(self) -> None:
        expected = len(ids_of_rendered(f"<|im_start|>system\nBe brief.\n<|im_end|>\n{USER_TEXT}{ASKED}"))
        for system in ("Be brief.\n", [{"type": "text", "text": "Be brief.\n"}]):
            for content in ("Hi 你好!\n", [{"type": "text", "text": "Hi 你好!\n"}]):
                messages = [{"role": "user", "content": content}]
                assert self.count(system=system, messages=messages) == expected
                assert self.count(messages=messages, system=system) == expected

    def test_tools(self) -> None:
        schema = {"type": "object", "properties": {}}
        tool = {"name": "weather", "description": "It.", "input_schema": schema}
        as_function = {
            "type": "function",
            "function": {"name": "weather", "description": "It.", "parameters": schema},
        }
        use = {"type": "tool_use", "id": "1", "name": "weather", "input": {"städte": ["Köln"]}}
        result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "3°"}]}
        call = {"function": {"name": "weather", "arguments": '{"städte": ["Köln"]}'}}
        same = counted(orjson.dumps({"messages": [
            USER, {"role": "assistant", "content": "Well.", "tool_calls": [call]},
            {"role": "tool", "content": "3°"}, {"role": "user", "content": "And?"},
        ], "tools": [as_function]}))  # fmt: skip
        messages = [
            USER,
            {"role": "assistant", "content": [{"type": "text", "text": "Well."}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
        ]
        assert self.count(messages=messages, tools=[tool]) == same.tokens

    def test_what_is_missing_is_said(self) -> None:
        with pytest.raises(NotCountable, match="messages"):
            self.count(prompt="x")
        with pytest.raises(NotCountable, match="type"):
            self.count(messages=[{"role": "user", "content": [{"text": "x"}]}])
