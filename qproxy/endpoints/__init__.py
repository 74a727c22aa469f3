"""The paths of this server, one endpoint a file. To add one: a row in its file, and its name in the table below.

A path that is only passed on needs no file of its own: it is a line in `forwarded.py`.
"""

from __future__ import annotations

from qproxy.core.route import Endpoint, ForwardEndpoint, LocalEndpoint
from qproxy.endpoints.auth import AUTH_ENDPOINTS
from qproxy.endpoints.chat import CHAT_COMPLETIONS
from qproxy.endpoints.completions import COMPLETIONS
from qproxy.endpoints.embeddings import EMBEDDINGS
from qproxy.endpoints.forwarded import FORWARDED_ONLY
from qproxy.endpoints.health import HEALTH, LIVEZ, READYZ
from qproxy.endpoints.models import MODEL, MODELS
from qproxy.endpoints.prompts import PROMPTS
from qproxy.endpoints.responses import RESPONSES
from qproxy.endpoints.root import ROOT
from qproxy.endpoints.tokens import COUNT_TOKENS, TOKENIZE

FORWARD_ENDPOINTS: tuple[ForwardEndpoint, ...] = (CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES, *FORWARDED_ONLY)
LOCAL_ENDPOINTS: tuple[LocalEndpoint, ...] = (
    MODELS, MODEL, TOKENIZE, COUNT_TOKENS, HEALTH, LIVEZ, READYZ, ROOT, *AUTH_ENDPOINTS, PROMPTS,
)  # fmt: skip
ENDPOINTS: tuple[Endpoint, ...] = (*FORWARD_ENDPOINTS, *LOCAL_ENDPOINTS)
