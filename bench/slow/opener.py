"""Slow clients by the thousand: from a thread of ours, or from slowhttptest, a program of others."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from bench.machine import pinned
from bench.tools import CHAT_PATH

OUTSIDER = "slowhttptest"  # Debian: apt-get install slowhttptest
OUTSIDER_LASTS_S = 60
BODY_BYTES = 8192
DRIP_S = 1.0  # between two pieces of a head or a body
CONNECT_S = 10.0
RECEIVE_BYTES = 4 * 1024


class Slowness(Enum):
    """What is slow about a client."""

    HEAD = "heads"
    BODY = "bodies"
    READER = "readers"


@dataclass(frozen=True, slots=True)
class Attack:
    """`request` is a good one, head and body. A slow head or body sends its beginning, then a few bytes a second.
    A slow reader sends it all and reads nothing."""

    slowness: Slowness
    port: int
    count: int
    request: bytes

    @property
    def opening(self) -> bytes:
        """What each client sends at once."""
        head, end, body = self.request.partition(b"\r\n\r\n")
        if self.slowness is Slowness.HEAD:
            return head + b"\r\n"
        return head + end + body[:10] if self.slowness is Slowness.BODY else self.request

    @property
    def drip(self) -> bytes:
        """What each adds every second."""
        return {Slowness.HEAD: b"x-more: yes\r\n", Slowness.BODY: b" ", Slowness.READER: b""}[self.slowness]


class Opener(Protocol):
    """Slow clients between `start` and `stop`."""

    name: str

    def start(self) -> None:
        """Raises OSError."""
        ...

    def stop(self) -> None: ...


def opener_for(attack: Attack, cores: frozenset[int]) -> Opener:
    """The outsider where it is installed and can do it: its slow readers ask by GET, and no answer to that is long."""
    if attack.slowness is not Slowness.READER and shutil.which(OUTSIDER):
        return OutsideOpener(attack, cores)
    return OwnOpener(attack)


class OwnOpener:
    """The clients do not care whether the proxy is still there."""

    name = "own"

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._clients: list[socket.socket] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._drip, name=f"slow {attack.slowness.value}", daemon=True)

    def start(self) -> None:
        for _ in range(self._attack.count):
            client = socket.socket()
            self._clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            client.settimeout(CONNECT_S)
            client.connect(("127.0.0.1", self._attack.port))
            client.sendall(self._attack.opening)
            client.setblocking(False)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        for client in self._clients:
            client.close()

    def _drip(self) -> None:
        while self._attack.drip and not self._over.wait(DRIP_S):
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.send(self._attack.drip)


class OutsideOpener:
    """slowhttptest."""

    name = OUTSIDER

    def __init__(self, attack: Attack, cores: frozenset[int]) -> None:
        self._attack = attack
        self._cores = cores
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        attack = self._attack
        mode = "-H" if attack.slowness is Slowness.HEAD else "-B"
        argv = (
            OUTSIDER, mode, "-c", str(attack.count), "-r", str(attack.count), "-i", f"{DRIP_S:.0f}", "-x", "24",
            "-s", str(BODY_BYTES), "-t", "POST", "-f", "application/json", "-l", str(OUTSIDER_LASTS_S),
            "-u", f"http://127.0.0.1:{attack.port}{CHAT_PATH}",
        )  # fmt: skip
        with pinned(self._cores):
            self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
