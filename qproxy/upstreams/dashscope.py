"""DashScope (Model Studio), pay as you go: one OpenAI-compatible host a region; keys are bound to their region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qproxy.upstreams.preset import DASHSCOPE_KEEPALIVE_S, Kind, Preset

if TYPE_CHECKING:
    from qproxy.core.upstream import BaseUrl

PLAN_KEY_PREFIX = "sk-sp-"
REGION_HINT = (
    "Keys are bound to a region: a key made in Singapore is refused in Beijing, and the reverse. "
    "A 401 with a fresh key usually means another region's preset."
)
FAMILY = ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com", "dashscope-us.aliyuncs.com", "maas.aliyuncs.com")


def _region(name: str, host: str) -> Preset:
    return Preset(
        name=name,
        kind="dashscope",
        base_url=f"https://{host}/compatible-mode/v1",
        key_variable="DASHSCOPE_API_KEY",
        key_required=True,
        keepalive_s=DASHSCOPE_KEEPALIVE_S,
        hint=REGION_HINT,
    )


PRESETS = (
    _region("dashscope", "dashscope.aliyuncs.com"),
    _region("dashscope-intl", "dashscope-intl.aliyuncs.com"),
    _region("dashscope-us", "dashscope-us.aliyuncs.com"),
    _region("dashscope-hk", "cn-hongkong.dashscope.aliyuncs.com"),
)


def is_family_host(host: str) -> bool:
    """Whether `host` is one of DashScope's, a workspace's own domain and the plans' hosts included."""
    return any(host == name or host.endswith(f".{name}") for name in FAMILY)


def mistakes(base: BaseUrl, key: str) -> tuple[str, ...]:
    """What users of these hosts get wrong most: the native API's path, and a plan's key on a general host."""
    found = []
    if base.path == "/api/v1" and is_family_host(base.host):
        found.append(
            "/api/v1 is DashScope's own API and answers OpenAI requests with 404: "
            "the URL must end in /compatible-mode/v1."
        )
    if key.startswith(PLAN_KEY_PREFIX) and is_family_host(base.host) and not _is_plan_host(base.host):
        found.append(
            f"The key starts with {PLAN_KEY_PREFIX}: it belongs to a plan, and this host refuses it. "
            "Use the preset coding-plan, coding-plan-intl, token-plan or token-plan-intl."
        )
    return tuple(found)


def _is_plan_host(host: str) -> bool:
    return host.split(".", 1)[0] in ("coding", "coding-intl", "token-plan")


KIND = Kind("dashscope", PRESETS, mistakes)
