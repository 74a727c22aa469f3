"""The subscriptions: Coding Plan and its successor Token Plan.

Both are sold for interactive coding tools and look at the User-Agent, so the client's own is forwarded; no other
program is imitated. Both accept the key as a Bearer token alone.
"""

from __future__ import annotations

from qproxy.upstreams import dashscope
from qproxy.upstreams.preset import DASHSCOPE_KEEPALIVE_S, Kind, Preset

CODING_PLAN_MODELS = (
    "qwen3.5-plus",
    "qwen3.6-plus",
    "qwen3.7-plus",
    "qwen3-coder-plus",
    "qwen3-coder-next",
    "qwen3-max-2026-01-23",
    "glm-5",
    "glm-4.7",
    "kimi-k2.5",
    "MiniMax-M2.5",
)
"""Coding Plan's models in the official client; whether its hosts answer `GET /models` is not documented."""

CODING_PLAN_HINT = (
    "The path is /v1, not /compatible-mode/v1. '401 invalid access token or token expired' with a fresh key means that "
    "the key belongs to another plan or region. New sales ended: Token Plan is the successor."
)
WRONG_PLAN_HINT = (
    "'401 invalid access token or token expired' with a fresh key means that the key belongs to another plan or region."
)


def _coding_plan(name: str, host: str) -> Preset:
    return Preset(
        name=name,
        kind="plan",
        base_url=f"https://{host}/v1",
        key_variable="BAILIAN_CODING_PLAN_API_KEY",
        key_required=True,
        keepalive_s=DASHSCOPE_KEEPALIVE_S,
        forward_user_agent=True,
        models=CODING_PLAN_MODELS,
        hint=CODING_PLAN_HINT,
    )


def _token_plan(name: str, region: str) -> Preset:
    return Preset(
        name=name,
        kind="plan",
        base_url=f"https://token-plan.{region}.maas.aliyuncs.com/compatible-mode/v1",
        key_variable="BAILIAN_TOKEN_PLAN_API_KEY",
        key_required=True,
        keepalive_s=DASHSCOPE_KEEPALIVE_S,
        forward_user_agent=True,
        hint=WRONG_PLAN_HINT,
    )


PRESETS = (
    _coding_plan("coding-plan", "coding.dashscope.aliyuncs.com"),
    _coding_plan("coding-plan-intl", "coding-intl.dashscope.aliyuncs.com"),
    _token_plan("token-plan", "cn-beijing"),
    _token_plan("token-plan-intl", "ap-southeast-1"),
)
KIND = Kind("plan", PRESETS, dashscope.mistakes)
