"""The rows of the table that concern prompts: how long they may be, and what is found out about them."""

from __future__ import annotations

from qproxy.config import values
from qproxy.config.option import AnyOption, Option

CHECKS = ("off", "warn", "refuse")


def _check(value: str) -> str:
    if value in CHECKS:
        return value
    raise ValueError


WINDOW_CHECK = Option(
    "window_check",
    values.text("off, warn or refuse", _check),
    "off",
    "What becomes of a prompt that is estimated over its model's window: off (sent), warn (a log line) or refuse.",
    flag="window-check",
)
CLAMP_MAX_TOKENS = Option(
    "clamp_max_tokens",
    values.switch(),
    False,
    "Lower max_tokens and max_completion_tokens to what the model gives at most.",
    flag="clamp-max-tokens",
)
COUNT_TOKENS = Option(
    "count_tokens",
    values.switch(),
    False,
    "Count every prompt with the tokenizer after it was answered, and learn how far that is from the upstream's count.",
    flag="count-tokens",
)
CACHE_WATCH = Option(
    "cache_watch",
    values.switch(),
    True,
    "Log which part of a prompt changed when the upstream's prompt cache missed.",
    flag="cache-watch",
)

PROMPTS: tuple[AnyOption, ...] = (WINDOW_CHECK, CLAMP_MAX_TOKENS, COUNT_TOKENS, CACHE_WATCH)
