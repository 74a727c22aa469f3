"""`GET /v1/debug/prompts`: what was learned of models and their prompts, for whoever administers this server."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from qproxy.core.local import json_answer
from qproxy.core.route import LocalEndpoint

if TYPE_CHECKING:
    from qproxy.core.local import LocalAnswer, LocalRequest


async def _prompts(request: LocalRequest) -> LocalAnswer:
    prompts = request.services.prompts
    return json_answer(
        {
            "ratios": [asdict(each) for each in prompts.ratios()],
            "limits": [asdict(each) for each in prompts.limits()],
            "cache": [asdict(each) for each in prompts.cache()],
        }
    )


PROMPTS = LocalEndpoint(
    "debug_prompts", b"/v1/debug/prompts", (b"GET",), needs_key=False, answer=_prompts, needs_admin=True
)
