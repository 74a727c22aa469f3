"""T9: a prompt over a long link: what a new connection costs, one that is kept, and one that was opened ahead."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.bodies import KIB
from bench.context import Bench, Faulty, Measurement, Target
from bench.instance import Instance
from bench.link import Link, Shape
from bench.processes import StartError
from bench.rivals.qproxy import WARM_IDLE_S
from bench.tools import CHAT_PATH

if TYPE_CHECKING:
    from bench.rivals.base import Rival

SHAPE = Shape()
SIZE_BYTES = 600 * KIB
TIMEOUT_S = 30.0
SEEN_S = 0.1  # until a proxy has seen that its connections were closed


class LongLink:
    """The link lies between the proxy and the mock; direct clients have it between themselves and the mock. Direct and
    proxied requests take turns."""

    name = "T9"
    title = "long link"
    has_direct_form = False

    def measure(self, bench: Bench, target: Target, into: Measurement) -> None:
        """Through the relay of `bench/link.py`, and a proxy that was started behind it."""
        own = target.require_instance()
        own.server.pause()
        try:
            with _link(bench) as link:
                direct = _Client(link.port, CHAT_PATH, (), bench)
                with _behind(link, own.rival, bench) as instance:
                    _compare(direct, _client_of(instance, bench), link, bench.effort.long_links, into)
                if own.rival.warmed is not None:
                    with _behind(link, own.rival.warmed, bench) as instance:
                        into.figures["spare_ms"] = _opened_ahead(_client_of(instance, bench), bench)
                direct.close()
        finally:
            own.server.resume()


class _Client:
    """One client with one connection, new or kept."""

    def __init__(self, port: int, path: str, headers: tuple[str, ...], bench: Bench) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._path = path
        self._headers = {"content-type": "application/json", **dict(line.split(": ", 1) for line in headers)}
        self._body = bench.body(SIZE_BYTES).read_bytes()

    def ask(self) -> float:
        """Milliseconds until the answer is whole. Raises Faulty."""
        begun = time.perf_counter()
        try:
            self._connection.request("POST", self._path, self._body, self._headers)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise Faulty(f"no answer over the link: {type(exc).__name__}") from exc
        if answer.status != http.HTTPStatus.OK:
            raise Faulty(f"status {answer.status} over the link")
        return (time.perf_counter() - begun) * 1000

    def ask_anew(self) -> float:
        """As `ask`, over a new connection."""
        self.close()
        return self.ask()

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def _link(bench: Bench) -> Iterator[Link]:
    try:
        link = Link(bench.build / "run" / "link", bench.cores.load, ("127.0.0.1", bench.mock.port), SHAPE)
    except StartError as exc:
        raise Faulty(str(exc)) from exc
    try:
        yield link
    finally:
        link.stop()


@contextlib.contextmanager
def _behind(link: Link, rival: Rival, bench: Bench) -> Iterator[Instance]:
    instance = Instance(rival, link.port, bench.cores.proxy, bench.build)
    instance.site = replace(instance.site, folder=bench.build / "run" / f"{rival.name}@link")
    try:
        instance.start()
    except StartError as exc:
        raise Faulty(f"{rival.name} behind the link: {exc}") from exc
    try:
        yield instance
    finally:
        instance.stop()


def _client_of(instance: Instance, bench: Bench) -> _Client:
    return _Client(instance.site.port, instance.command.path, instance.command.headers, bench)


def _compare(direct: _Client, proxied: _Client, link: Link, count: int, into: Measurement) -> None:
    """New connections first: after them there are some to keep."""

    def anew() -> float:
        link.cut()
        time.sleep(SEEN_S)
        return proxied.ask()

    into.figures["direct_new_ms"], into.figures["new_ms"] = _in_turns(direct.ask_anew, anew, count)
    direct.ask_anew()  # the cut has closed its connection too
    into.figures["direct_kept_ms"], into.figures["kept_ms"] = _in_turns(direct.ask, proxied.ask, count)
    into.figures["kept_over_direct"] = into.figures["kept_ms"] / into.figures["direct_kept_ms"]
    proxied.close()


def _in_turns(first: Callable[[], float], second: Callable[[], float], count: int) -> tuple[float, float]:
    """The medians of both."""
    pairs = [(first(), second()) for _ in range(count)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _opened_ahead(proxied: _Client, bench: Bench) -> float:
    """The median over connections that nobody had used yet."""
    taken = []
    for _ in range(bench.effort.long_links):
        proxied.ask()
        time.sleep(WARM_IDLE_S + 3 * SHAPE.rtt_s)  # the one that has served expires, another one is opened
        taken.append(proxied.ask())
    proxied.close()
    return statistics.median(taken)
