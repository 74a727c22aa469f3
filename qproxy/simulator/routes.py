"""From method and path to a handler. Both prefixes, `/v1` and `/compatible-mode/v1`, lead to the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from qproxy.simulator import files, oauth
from qproxy.simulator.answers import Answer, refused
from qproxy.simulator.catalogue import list_models, one_model
from qproxy.simulator.chat import chat
from qproxy.simulator.completions import completions
from qproxy.simulator.embeddings import embeddings, rerank
from qproxy.simulator.responses import responses

if TYPE_CHECKING:
    from collections.abc import Callable

    from qproxy.simulator.call import Call

    Handler: TypeAlias = Callable[[Call], Answer]

_PREFIXES = ("/compatible-mode/v1/", "/v1/")

_LOGIN: dict[tuple[str, str], Handler] = {
    ("POST", "/api/v1/oauth2/device/code"): oauth.device_code,
    ("POST", oauth.GRANT_PATH): oauth.token,
    ("GET", "/authorize"): oauth.authorize,
}
_API: dict[tuple[str, str], Handler] = {
    ("POST", "chat/completions"): chat,
    ("POST", "completions"): completions,
    ("POST", "embeddings"): embeddings,
    ("POST", "rerank"): rerank,
    ("POST", "responses"): responses,
    ("GET", "models"): list_models,
    ("POST", "files"): files.upload,
    ("GET", "files"): files.list_files,
    ("POST", "batches"): files.create_batch,
    ("GET", "batches"): files.list_batches,
    ("POST", "images/generations"): files.image,
    ("POST", "audio/transcriptions"): files.transcription,
    ("POST", "audio/speech"): files.speech,
}
_API_UNDER: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "models/", one_model),
    ("GET", "files/", files.one_file),
    ("DELETE", "files/", files.delete_file),
    ("GET", "batches/", files.one_batch),
)


def api_path(path: str) -> str:
    """The path behind the prefix; empty where it is none of the API's."""
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            return path[len(prefix) :]
    return ""


def handler_for(method: str, path: str) -> Handler:
    """Raises Refused where nothing answers there."""
    rest = api_path(path)
    handler = _API.get((method, rest)) or _LOGIN.get((method, path))
    if handler is not None:
        return handler
    for allowed, prefix, candidate in _API_UNDER:
        if method == allowed and rest.startswith(prefix):
            return candidate
    raise refused(404, "not_found", f"Not Found: {method} {path}")
