"""What a row of the preset table holds. Rows are data: an upstream is added by writing one, not by writing code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qproxy.core.upstream import BaseUrl, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

DASHSCOPE_KEEPALIVE_S = 45.0  # its gateways' idle limit is not published; usual ones start at 60 s
SELFHOSTED_KEEPALIVE_S = 4.0  # uvicorn, under vLLM and SGLang, closes an idle connection after 5 s


@dataclass(frozen=True, slots=True)
class Preset:
    """One upstream that is known by name.

    `base_url` is empty where the address comes with the credential. `key_variable` is the environment variable that
    its users know, empty where there is none. `models` are built-in ids: used where `has_model_list` is False, and
    as the fallback where the upstream's own list fails. `hint` says what people get wrong with it.
    """

    name: str
    kind: str
    base_url: str
    key_variable: str = ""
    key_required: bool = False
    keepalive_s: float = SELFHOSTED_KEEPALIVE_S
    forward_user_agent: bool = False
    default_model: str = ""
    models: tuple[str, ...] = ()
    has_model_list: bool = True
    hint: str = ""

    def upstream(self) -> Upstream:
        """The upstream that this row describes. Raises ValueError where its URL is unusable."""
        return Upstream(
            name=self.name,
            kind=self.kind,
            base=BaseUrl.parse(self.base_url) if self.base_url else None,
            forward_user_agent=self.forward_user_agent,
            keepalive_s=self.keepalive_s,
            default_model=self.default_model,
            models=self.models,
            has_model_list=self.has_model_list,
        )


def no_mistakes(base: BaseUrl, key: str) -> tuple[str, ...]:
    """For kinds whose addresses and keys have no known pitfalls."""
    del base, key
    return ()


@dataclass(frozen=True, slots=True)
class Kind:
    """One family of upstreams: its presets, and `mistakes(base, key)`, which names what is probably set wrongly.

    A mistake is one sentence for people that says what to set instead; it never quotes the key.
    """

    name: str
    presets: tuple[Preset, ...]
    mistakes: Callable[[BaseUrl, str], tuple[str, ...]] = no_mistakes
