"""What the simulated model does with a conversation, before any endpoint gives it a form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qproxy.simulator import text
from qproxy.simulator.answers import invalid, refused
from qproxy.simulator.fields import as_count, as_list, as_object, as_text

if TYPE_CHECKING:
    from qproxy.simulator.call import Call
    from qproxy.simulator.request import JsonObject

_IMAGE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one function; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the model. With a tool call there is no content."""

    reasoning: list[str]
    content: list[str]
    tool: ToolCall | None
    finish: str
    prompt_tokens: int
    image_tokens: int

    @property
    def completion_tokens(self) -> int:
        called = len(text.fragments(self.tool.arguments)) if self.tool else 0
        return len(self.reasoning) + len(self.content) + called

    def usage(self) -> JsonObject:
        """As chat completions report it."""
        prompt = self.prompt_tokens + self.image_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt + self.completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "text_tokens": self.prompt_tokens,
                "image_tokens": self.image_tokens,
            },
            "completion_tokens_details": {
                "reasoning_tokens": len(self.reasoning),
                "text_tokens": self.completion_tokens - len(self.reasoning),
            },
        }


def take_turn(call: Call, messages: list[object]) -> Turn:
    """Decides what the model answers. Raises Refused where Qwen refuses."""
    body = call.body
    _check_ranges(body)
    thoughts = text.reasoning(call.options.reasoning_tokens) if thinks(body) else []
    tool = _tool_call(call, messages)
    limit = _limit(body, call.options.tokens)
    content = [] if tool else _content(call, min(limit, call.options.tokens))
    cut = tool is None and limit < call.options.tokens
    return Turn(
        reasoning=thoughts,
        content=content,
        tool=tool,
        finish="tool_calls" if tool else "length" if cut else "stop",
        prompt_tokens=text.prompt_tokens(call.request.body),
        image_tokens=_IMAGE_TOKENS * count_images(messages),
    )


def _limit(body: JsonObject, default: int) -> int:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        if body.get(name) is not None:
            return as_count(body[name], default)
    return default


def thinks(body: JsonObject) -> bool:
    """Whether reasoning comes before the answer."""
    asked = body.get("enable_thinking", as_object(body.get("chat_template_kwargs")).get("enable_thinking"))
    return asked is True or as_text(body.get("model")).endswith("-thinking")


def count_images(messages: list[object]) -> int:
    """The image parts of all messages."""
    parts = [part for message in messages for part in as_list(as_object(message).get("content"))]
    return sum(as_object(part).get("type") in ("image_url", "input_image") for part in parts)


def _content(call: Call, count: int) -> list[str]:
    wanted = as_object(call.body.get("response_format"))
    if wanted.get("type") == "json_schema":
        schema = as_object(wanted.get("json_schema")).get("schema")
        return text.fragments(text.arguments_for(schema))
    if wanted.get("type") == "json_object":
        return text.fragments('{"answer": "通义 sample"}')
    return text.tokens(count)


def _tool_call(call: Call, messages: list[object]) -> ToolCall | None:
    tools = [as_object(tool) for tool in as_list(call.body.get("tools"))]
    functions = [as_object(tool.get("function", tool)) for tool in tools if tool.get("type") == "function"]
    if any(function.get("name") == "search" for function in functions):
        raise invalid("Tool names are not allowed to be [search]")
    choice = call.body.get("tool_choice")
    if not functions or choice == "none" or _answers_a_tool(messages):
        return None
    named = as_object(choice)
    wanted = as_object(named.get("function", named)).get("name")
    function = next((f for f in functions if f.get("name") == wanted), functions[0])
    return ToolCall(
        id=f"call_{call.request_id.replace('-', '')[:24]}",
        name=as_text(function.get("name")),
        arguments=text.arguments_for(function.get("parameters")),
    )


def _answers_a_tool(messages: list[object]) -> bool:
    last = as_object(messages[-1]) if messages else {}
    return last.get("role") == "tool" or last.get("type") == "function_call_output"


def _check_ranges(body: JsonObject) -> None:
    temperature = body.get("temperature")
    if isinstance(temperature, int | float) and not 0 <= temperature < 2:
        raise invalid("Temperature should be in [0.0, 2.0)")
    top_logprobs = body.get("top_logprobs")
    if isinstance(top_logprobs, int) and not 0 <= top_logprobs <= 5:
        raise invalid("Range of top_logprobs should be [0, 5]")
    if "reasoning_effort" in body and "thinking_budget" in body:
        raise refused(400, "invalid_parameter_error", "reasoning_effort and thinking_budget cannot be used together")
