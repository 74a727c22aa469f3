"""The upstreams known by name. A new one is a row in its kind's file; a new kind is a file and a line in `KINDS`.

The order of `PRESETS` counts: without a chosen upstream, the first row whose key variable is set is taken.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from qproxy.upstreams import dashscope, openai, plan, qwen_oauth, selfhosted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qproxy.upstreams.preset import Kind, Preset

KINDS: Mapping[str, Kind] = MappingProxyType(
    {kind.name: kind for kind in (dashscope.KIND, plan.KIND, selfhosted.KIND, qwen_oauth.KIND, openai.KIND)}
)
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {preset.name: preset for kind in KINDS.values() for preset in kind.presets}
)
