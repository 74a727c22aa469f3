"""Any other server that speaks OpenAI's API, given by its URL."""

from __future__ import annotations

from qproxy.upstreams import dashscope
from qproxy.upstreams.preset import Kind, Preset

GENERIC = Preset(name="", kind="openai", base_url="")
"""The quirks of an upstream of which nothing is known: the short idle limit is the safe one."""

KIND = Kind("openai", (), dashscope.mistakes)
