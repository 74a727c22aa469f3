"""`POST /embeddings` and `POST /rerank`: numbers that depend on nothing but the text."""

from __future__ import annotations

import array
import base64
import hashlib
import math
import sys
from typing import TYPE_CHECKING

from qproxy.simulator.answers import Answer, invalid, json_reply
from qproxy.simulator.fields import as_count, as_list, as_object, as_text
from qproxy.simulator.text import prompt_tokens

if TYPE_CHECKING:
    from qproxy.simulator.call import Call
    from qproxy.simulator.request import JsonObject

_BATCH_LIMIT = 10
_DIMENSIONS = 1024
_DIMENSIONS_ALLOWED = (2048, 1536, 1024, 768, 512, 256, 128, 64)


def embed(content: str, dimensions: int) -> list[float]:
    """A unit vector for a text, the same one each time."""
    digest = hashlib.shake_128(content.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    numbers = array.array("h", digest)
    if sys.byteorder == "big":
        numbers.byteswap()
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers]


def embeddings(call: Call) -> Answer:
    """Strings or token lists, one or a batch; `encoding_format` float or base64. Raises Refused."""
    model = call.model
    batch = _batch(call.body.get("input"))
    dimensions = as_count(call.body.get("dimensions"), _DIMENSIONS)
    if dimensions not in _DIMENSIONS_ALLOWED:
        raise invalid(f"Range of dimensions should be {sorted(_DIMENSIONS_ALLOWED)}")
    in_base64 = call.body.get("encoding_format") == "base64"
    data: list[JsonObject] = []
    for index, content in enumerate(batch):
        vector = embed(content, dimensions)
        data.append({"object": "embedding", "index": index, "embedding": _base64(vector) if in_base64 else vector})
    used = prompt_tokens("".join(batch).encode("utf-8", "surrogatepass"))
    usage = {"prompt_tokens": used, "total_tokens": used}
    return json_reply({"object": "list", "data": data, "model": model, "usage": usage, "id": call.request_id})


def rerank(call: Call) -> Answer:
    """Scores by cosine of the same vectors, best first. Raises Refused."""
    model = call.model
    query = as_text(call.body.get("query"))
    documents = [_as_document(document) for document in as_list(call.body.get("documents"))]
    if not query or not documents:
        raise invalid("'query' and 'documents' are required")
    wanted = embed(query, 64)
    scores = [_cosine(wanted, embed(document, 64)) for document in documents]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    top = as_count(call.body.get("top_n"), len(order))
    results = [{"index": index, "relevance_score": scores[index]} for index in order[:top]]
    usage = {"total_tokens": prompt_tokens(call.request.body)}
    return json_reply({"object": "list", "results": results, "model": model, "id": call.request_id, "usage": usage})


def _batch(given: object) -> list[str]:
    if isinstance(given, str):
        return [given]
    items = as_list(given)
    if not items:
        raise invalid("'input' must be a string or a non-empty array")
    if isinstance(items[0], int):
        return [str(items)]
    if len(items) > _BATCH_LIMIT:
        raise invalid(f"Value error, batch size is invalid, it should not be larger than {_BATCH_LIMIT}.")
    return [item if isinstance(item, str) else str(item) for item in items]


def _base64(vector: list[float]) -> str:
    packed = array.array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode("ascii")


def _as_document(document: object) -> str:
    return document if isinstance(document, str) else as_text(as_object(document).get("text"))


def _cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
