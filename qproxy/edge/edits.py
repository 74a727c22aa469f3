"""What is changed in a request's body on its way up. Most requests go as they came."""

from __future__ import annotations

from collections.abc import Sequence

from qproxy.core.cache_markers import cache_markers
from qproxy.core.clamp import clamped
from qproxy.core.models import Choice
from qproxy.core.splice import BodyFacts, DefaultModel, Edit, IncludeUsage, Patches, Rename
from qproxy.edge.services import Services

CHAT_PATH = b"/chat/completions"


def model_edits(choice: Choice, facts: BodyFacts) -> list[Edit]:
    """What makes the body name the model that it goes to."""
    if choice.model is None:
        return []
    if not facts.has_model:
        return [DefaultModel(choice.model)]
    return [Rename(choice.model)] if choice.rename and choice.model != facts.model else []


def stored_edits(
    services: Services, choice: Choice, path: bytes, pieces: Sequence[bytes], facts: BodyFacts
) -> list[Edit]:
    """All that is to be changed in a body that is here."""
    edits = model_edits(choice, facts)
    if services.include_usage:
        edits.append(IncludeUsage())
    if services.cache_marked and choice.upstream in services.cache_marked and path == CHAT_PATH:
        edits.append(Patches(cache_markers(pieces, facts)))
    if services.output_caps is not None and choice.model is not None:
        most = services.output_caps.output_cap_of(choice.model, choice.upstream)
        if most is not None:
            edits.append(Patches(clamped(pieces, facts, most)))
    return edits
