"""`/files`, `/batches`, `/images/...` and `/audio/...`: enough to see that a forwarded request arrived whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qproxy.simulator.answers import Answer, Reply, invalid, json_reply, refused
from qproxy.simulator.fields import as_text

if TYPE_CHECKING:
    from qproxy.simulator.call import Call
    from qproxy.simulator.request import JsonObject, Request


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body; `filename` is empty for a plain field."""

    name: str
    filename: str
    content: bytes


class FileStore:
    """What was uploaded and which batches were made, in memory."""

    def __init__(self) -> None:
        self._rows: dict[str, JsonObject] = {}
        self._contents: dict[str, bytes] = {}

    def add(self, row: JsonObject, content: bytes = b"") -> JsonObject:
        self._rows[as_text(row["id"])] = row
        self._contents[as_text(row["id"])] = content
        return row

    def listed(self, kind: str) -> JsonObject:
        rows = [row for row in self._rows.values() if row["object"] == kind]
        return {"object": "list", "data": rows, "has_more": False}

    def row(self, row_id: str) -> JsonObject:
        """Raises Refused where there is none."""
        if row_id not in self._rows:
            raise refused(404, "not_found", f"No such object: {row_id}")
        return self._rows[row_id]

    def content(self, row_id: str) -> bytes:
        """Raises Refused where there is none."""
        self.row(row_id)
        return self._contents[row_id]

    def remove(self, row_id: str) -> None:
        """Raises Refused where there is none."""
        self.row(row_id)
        del self._rows[row_id], self._contents[row_id]


def upload(call: Call) -> Answer:
    """A multipart body with `file` and `purpose`. Raises Refused."""
    parts = multipart(call.request)
    file = next((part for part in parts if part.filename), None)
    if file is None:
        raise invalid("'file' is required")
    purpose = next((part.content.decode("utf-8", "replace") for part in parts if part.name == "purpose"), "")
    row: JsonObject = {
        "id": f"file-{call.request_id}",
        "object": "file",
        "bytes": len(file.content),
        "created_at": call.created,
        "filename": file.filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }
    return json_reply(call.files.add(row, file.content))


def list_files(call: Call) -> Answer:
    """All files."""
    return json_reply(call.files.listed("file"))


def one_file(call: Call) -> Answer:
    """A file's row, or its bytes under `/content`. Raises Refused."""
    row_id, _, rest = call.request.path.partition("/files/")[2].partition("/")
    if rest == "content":
        return Reply(200, call.files.content(row_id), b"application/octet-stream")
    return json_reply(call.files.row(row_id))


def delete_file(call: Call) -> Answer:
    """Raises Refused."""
    call.files.remove(call.tail)
    return json_reply({"id": call.tail, "object": "file", "deleted": True})


def create_batch(call: Call) -> Answer:
    """Raises Refused where the input file is unknown."""
    source = as_text(call.body.get("input_file_id"))
    call.files.row(source)
    row: JsonObject = {
        "id": f"batch_{call.request_id}",
        "object": "batch",
        "endpoint": call.body.get("endpoint"),
        "input_file_id": source,
        "completion_window": call.body.get("completion_window"),
        "status": "validating",
        "created_at": call.created,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    }
    return json_reply(call.files.add(row))


def list_batches(call: Call) -> Answer:
    """All batches."""
    return json_reply(call.files.listed("batch"))


def one_batch(call: Call) -> Answer:
    """Raises Refused."""
    return json_reply(call.files.row(call.tail))


def image(call: Call) -> Answer:
    """One URL that leads nowhere."""
    return json_reply({"created": call.created, "data": [{"url": f"http://localhost/{call.request_id}.png"}]})


def transcription(call: Call) -> Answer:
    """Says how long the uploaded sound was. Raises Refused."""
    sizes = [len(part.content) for part in multipart(call.request) if part.filename]
    if not sizes:
        raise invalid("'file' is required")
    return json_reply({"text": f"{sizes[0]} bytes of sound"})


def speech(_: Call) -> Answer:
    """Bytes that no text decoder survives."""
    return Reply(200, bytes(range(256)) * 16, b"audio/mpeg")


def multipart(request: Request) -> list[Part]:
    """The parts of a `multipart/form-data` body. Raises Refused where it is none."""
    kind, _, parameters = request.header("content-type").partition(";")
    boundary = parameters.strip().removeprefix("boundary=").strip('"')
    if kind.strip() != "multipart/form-data" or not boundary:
        raise invalid("the body must be multipart/form-data")
    pieces = (b"\r\n" + request.body).split(b"\r\n--" + boundary.encode("latin-1"))
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise invalid("the multipart body has no end")
    return [_part(piece.removeprefix(b"\r\n")) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, _, content = piece.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "replace").split("\r\n")
    disposition = next((line for line in lines if line.lower().startswith("content-disposition:")), "")
    return Part(_parameter(disposition, "name"), _parameter(disposition, "filename"), content)


def _parameter(line: str, name: str) -> str:
    return line.partition(f'; {name}="')[2].partition('"')[0]
