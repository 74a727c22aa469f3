"""TLS as a layer over bytes: ciphertext in, plaintext out. No socket, no wait.

Our own wrap, since anyio, asyncio and uvloop offer no parameter for session resumption, and so that a body moves
through the same callback with TLS and without. The handshake is driven by the stream that owns the layer.
"""

from __future__ import annotations

import ssl

from qproxy.core.splice import Buffer

_READ_BYTES = 256 * 1024


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
