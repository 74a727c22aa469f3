"""One call as its handler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qproxy.simulator.answers import refused
from qproxy.simulator.fields import as_text

if TYPE_CHECKING:
    from qproxy.simulator.files import FileStore
    from qproxy.simulator.oauth import OAuth
    from qproxy.simulator.options import Options
    from qproxy.simulator.request import JsonObject, Request


@dataclass(frozen=True, slots=True)
class Call:
    """`body` is the JSON object that was sent, empty where there is none. `options` are those of this one request.

    `now` is the loop's clock, `created` Unix time, both in seconds.
    """

    request: Request
    body: JsonObject
    options: Options
    request_id: str
    created: int
    now: float
    files: FileStore
    oauth: OAuth

    @property
    def model(self) -> str:
        """Raises Refused where none is named."""
        model = as_text(self.body.get("model"))
        if not model:
            raise refused(400, "invalid_request_error", "you must provide a model parameter")
        return model

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True

    @property
    def tail(self) -> str:
        """The last part of the path, as in `/models/{id}`."""
        return self.request.path.rpartition("/")[2]
