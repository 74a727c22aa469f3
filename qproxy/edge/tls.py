"""TLS as a layer over bytes: ciphertext in, plaintext out. No socket, no wait.

Our own wrap, since anyio, asyncio and uvloop offer no parameter for session resumption, and so that a body moves
through the same callback with TLS and without. The handshake is driven by the stream that owns the layer.
"""

from __future__ import annotations

import ssl
from collections import deque

from qproxy.core.splice import Buffer

KEPT_SESSIONS = 4
_READ_BYTES = 256 * 1024


class TlsSessions:
    """The last sessions with one origin, each to be resumed once: a ticket that is shown twice ties both connections
    together for whoever watches (RFC 8446 C.4). A peer that refuses one makes a full handshake of it by itself."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: deque[ssl.SSLSession] = deque(maxlen=KEPT_SESSIONS)

    def take(self) -> ssl.SSLSession | None:
        """The newest one; None where there is none left."""
        return self._kept.pop() if self._kept else None

    def keep(self, connection: ssl.SSLObject) -> None:
        """Keep what the peer gave this connection to resume, if it gave anything. In TLS 1.3 tickets come some time
        after the handshake."""
        session = connection.session
        if session is not None and (session.has_ticket or session.id):
            self._kept.append(session)


class TlsLayer:
    """One side of one TLS connection, as a client. `session` resumes an earlier one."""

    __slots__ = ("_incoming", "_object", "_outgoing", "clean_end")

    def __init__(self, context: ssl.SSLContext, server_hostname: str, session: ssl.SSLSession | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=False, server_hostname=server_hostname, session=session
        )
        self.clean_end = False  # the peer has said close_notify

    @property
    def ssl_object(self) -> ssl.SSLObject:
        return self._object

    def handshake(self) -> bool:
        """True when it is complete; send `outgoing()` either way. Raises ssl.SSLError."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def outgoing(self) -> bytes:
        """Ciphertext that wants to be sent."""
        return self._outgoing.read()

    def take_ciphertext(self, data: bytes) -> None:
        """Store what came, for the handshake or `plaintext()`."""
        self._incoming.write(data)

    def plaintext(self) -> bytes:
        """All that can be decrypted so far. Raises ssl.SSLError."""
        parts = []
        try:
            while part := self._object.read(_READ_BYTES):
                parts.append(part)
            self.clean_end = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.clean_end = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def encrypt(self, data: Buffer) -> bytes:
        """The ciphertext for `data`."""
        view = memoryview(data)
        while view:
            view = view[self._object.write(view) :]
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """The close_notify to send before the connection is closed."""
        try:
            self._object.unwrap()
        except ssl.SSLError:
            pass  # the peer's half is not waited for
        return self._outgoing.read()
