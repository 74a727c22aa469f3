"""The login of the official CLI: its address comes with the token, and its portal has no model list.

Reading the token and judging its address is in `qproxy.core.oauth`, which the edge uses as well.
"""

from __future__ import annotations

from qproxy.core.oauth import FREE_TIER_ENDED
from qproxy.upstreams.preset import DASHSCOPE_KEEPALIVE_S, Kind, Preset

PRESETS = (
    Preset(
        name="qwen-oauth",
        kind="qwen_oauth",
        base_url="",
        keepalive_s=DASHSCOPE_KEEPALIVE_S,
        default_model="qwen3-coder-plus",
        models=("qwen3-coder-plus", "qwen3-coder-flash", "coder-model", "vision-model"),
        has_model_list=False,
        hint=FREE_TIER_ENDED,
    ),
)
KIND = Kind("qwen_oauth", PRESETS)
