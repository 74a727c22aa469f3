"""Secrets that are looked for in whatever got out, also in disguise."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CORE = re.compile(rb"[A-Za-z0-9._~-]{12,}")
"""Characters that no encoding of URLs changes. So many of them are as good as the whole secret."""


def disguises(secret: str) -> dict[str, bytes]:
    """What to look for, by the name of the disguise."""
    data = secret.encode()
    found = {
        "clear": data,
        "its core": max(CORE.findall(data), key=len),
        "backwards": data[::-1],
        "URL-encoded": quote(secret, safe="").encode(),
        "form-encoded": quote_plus(secret).encode(),
        "hex": data.hex().encode(),
        "hex, capital letters": data.hex().upper().encode(),
    }
    for shift in range(3):
        found[f"base64, {shift} bytes behind a boundary"] = _in_base64(data, shift)
        found[f"base64 for URLs, {shift} bytes behind a boundary"] = _in_base64(data, shift, b"-_")
    return found


def _in_base64(data: bytes, shift: int, altchars: bytes = b"+/") -> bytes:
    """The characters that do not depend on what stands before and behind."""
    encoded = base64.b64encode(b"\0" * shift + data, altchars).rstrip(b"=")
    whole = (shift + len(data)) * 8 // 6
    return encoded[-(-shift * 8 // 6) : whole]


@dataclass
class Canaries:
    """The secrets of one test, by what they are, and the output that was collected, by where it came from."""

    secrets: dict[str, str] = field(default_factory=dict)
    output: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, secret: str) -> str:
        assert CORE.search(secret.encode()), name
        self.secrets[name] = secret
        return secret

    def collect(self, source: str, *texts: str | bytes) -> None:
        data = b"\n".join(text.encode() if isinstance(text, str) else text for text in texts)
        self.output[source] = self.output.get(source, b"") + data + b"\n"

    def leaks(self, exempt: Iterable[str] = ()) -> list[str]:
        """Which secret stands where, and how it is written there."""
        return sorted(set(self._found(set(exempt))))

    def _found(self, exempt: set[str]) -> Iterator[str]:
        for name, secret in self.secrets.items():
            for disguise, pattern in disguises(secret).items():
                for source, data in self.output.items():
                    if source not in exempt and pattern in data:
                        yield f"{name} in {source} ({disguise})"
