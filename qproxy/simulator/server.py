"""The simulator at work: accepts, records, chooses the scenario, answers."""

from __future__ import annotations

import random
import socket
import time
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING
from uuid import UUID

import anyio

from qproxy.simulator import wire as wires
from qproxy.simulator.accounts import known
from qproxy.simulator.answers import Answer, Refusal, Refused, Reply, refused, reply_head
from qproxy.simulator.call import Call
from qproxy.simulator.catalogue import unknown_model
from qproxy.simulator.control import Control
from qproxy.simulator.delivery import ConnectionOver, Delivery
from qproxy.simulator.files import FileStore
from qproxy.simulator.oauth import ACCESS_PREFIX, GRANT_PATH
from qproxy.simulator.options import Options
from qproxy.simulator.request import BadRequest, Head, HeadReader, Request, read_body
from qproxy.simulator.routes import api_path, handler_for
from qproxy.simulator.scenarios import NORMAL, SCENARIOS, Hold, Scenario
from qproxy.simulator.wire import PeerLeft, Wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from qproxy.simulator.accounts import Account
    from qproxy.simulator.request import JsonObject


class Simulator(Control):
    """A running simulator; see `running`."""

    def __init__(self, options: Options, url: str) -> None:
        super().__init__(options, url)
        self._heads = HeadReader()
        self._files = FileStore()

    async def serve(self, wire: Wire, tls: ssl.SSLContext | None) -> None:
        """Serves one connection to its end and closes it."""
        self.counters.connections += 1
        self.counters.connections_open += 1
        self._notify()
        number = self.counters.connections
        try:
            if tls is not None:
                await wire.handshake(tls)
            while await self._serve_request(wire, number):
                pass
        except BadRequest as exc:
            self.counters.bad_requests += 1
            await self._farewell(wire, Refusal(400, "bad_request", str(exc)).reply(""))
        except (PeerLeft, ConnectionOver):
            pass
        finally:
            wire.close()
            self.counters.connections_open -= 1
            self._notify()

    async def _serve_request(self, wire: Wire, number: int) -> bool:
        """One exchange; False where the connection ends with it."""
        head = await self._heads.read(wire)
        self.counters.heads += 1
        self._notify()
        account = self.account(head.bearer)
        account.in_flight += 1
        try:
            scenario = self._scenario_of_head(head, account)
            if scenario is not None and scenario.early and isinstance(scenario.answer, Refusal):
                await self._farewell(wire, scenario.answer.reply(_new_id()))
                return False
            request = await self._receive(wire, head, number, scenario)
            await self._answer(wire, request, scenario)
        finally:
            account.in_flight -= 1
        return head.keep_alive

    async def _receive(self, wire: Wire, head: Head, number: int, scenario: Scenario | None) -> Request:
        try:
            if scenario is not None and scenario.hold is Hold.BODY:
                await self._hold()
            body = await read_body(wire, head)
        except PeerLeft:
            self.counters.aborted_uploads += 1
            raise
        request = Request(head, body, number)
        self.requests.append(request)
        self.counters.requests += 1
        self.oauth.token_posts += head.path == GRANT_PATH
        self._notify()
        return request

    async def _answer(self, wire: Wire, request: Request, scenario: Scenario | None) -> None:
        request_id = _new_id()
        options = self.options
        answer: Answer
        try:
            options = _options_for(options, request.head)
            call = self._call(request, options, request_id)
            scenario = scenario or _scenario_of_model(call)
            answer = _answer_for(call, scenario)
        except Refused as exc:
            scenario, answer = NORMAL, exc.refusal.reply(request_id)
        delivery = Delivery(wire, options, scenario, request_id, self._common_headers(request_id), self._hold)
        try:
            await delivery.send(answer, len(request.body))
        except PeerLeft:
            self.counters.aborted += 1
            raise
        self.counters.completed += 1
        self._notify()

    async def _farewell(self, wire: Wire, reply: Reply) -> None:
        """The last answer on a connection whose input is not read to its end."""
        common = self._common_headers(_new_id()) + b"connection: close\r\n"
        try:
            await wire.send(reply_head(reply, common) + reply.body)
        except PeerLeft:
            return
        await wire.linger()

    def _scenario_of_head(self, head: Head, account: Account) -> Scenario | None:
        """The scenario that is known before the body: wrong key, script, account, header. None: it may come later."""
        path = head.path
        name = self._wrong_key(head) or self._next_in_script(path)
        if not name and api_path(path):
            name = account.next_scenario() or head.sim.get("scenario", "")
        return SCENARIOS.get(name)

    def _wrong_key(self, head: Head) -> str:
        if not api_path(head.path):
            return ""
        if head.bearer.startswith(ACCESS_PREFIX):
            return "" if self.oauth.accepts(head.bearer, anyio.current_time()) else "401-expired"
        if not self.options.keys or head.bearer in self.options.keys:
            return ""
        return "401" if head.bearer else "401-missing"

    def _call(self, request: Request, options: Options, request_id: str) -> Call:
        return Call(
            request=request,
            body=_json_body(request),
            options=options,
            request_id=request_id,
            created=int(time.time()),
            now=anyio.current_time(),
            files=self._files,
            oauth=self.oauth,
        )

    def _common_headers(self, request_id: str) -> bytes:
        now = time.time()
        date = formatdate(now + self.options.clock_skew_s, usegmt=True)
        return (
            f"x-request-id: {request_id}\r\n"
            "x-dashscope-call-gateway: true\r\n"
            f"req-arrive-time: {now * 1000:.0f}\r\n"
            "req-cost-time: 1\r\n"
            f"date: {date}\r\n"
            "server: istio-envoy\r\n"
            f"set-cookie: acw_tc={request_id};path=/;HttpOnly;Max-Age=1800\r\n"
        ).encode()


def _new_id() -> str:
    return str(UUID(int=random.getrandbits(128), version=4))


def _options_for(options: Options, head: Head) -> Options:
    try:
        if "scenario" in head.sim:
            known(head.sim["scenario"])
        return options.changed_by(head.sim)
    except ValueError as exc:
        raise refused(400, "invalid_parameter_error", f"an x-sim header is wrong: {exc}") from exc


def _json_body(request: Request) -> JsonObject:
    if request.method != "POST" or not request.header("content-type").startswith("application/json"):
        return {}
    try:
        return request.json()
    except ValueError as exc:
        message = f"We could not parse the JSON body of your request: {exc}"
        raise refused(400, "invalid_parameter_error", message) from exc


def _scenario_of_model(call: Call) -> Scenario:
    model = call.body.get("model")
    if not isinstance(model, str) or not model.startswith("sim-"):
        return NORMAL
    scenario = SCENARIOS.get(model.removeprefix("sim-"))
    if scenario is None:
        raise unknown_model(model)
    return scenario


def _answer_for(call: Call, scenario: Scenario) -> Answer:
    handler = handler_for(call.request.method, call.request.path)
    if isinstance(scenario.answer, Refusal):
        return scenario.answer.reply(call.request_id)
    return scenario.answer or handler(call)


@asynccontextmanager
async def running(
    options: Options | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    socket_path: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Simulator]:
    """A simulator that listens inside the block; leaving it closes every connection. Raises OSError."""
    listener = wires.listen(host, port, socket_path)
    simulator = Simulator(options or Options(), _url_of(listener, ssl_context))

    async def serve(wire: Wire) -> None:
        await simulator.serve(wire, ssl_context)

    with listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wires.accept_forever, listener, tasks, serve)
            yield simulator
            tasks.cancel_scope.cancel()


def _url_of(listener: socket.socket, tls: ssl.SSLContext | None) -> str:
    address = listener.getsockname()
    if isinstance(address, str):
        return f"http+unix://{address}"
    host, port = address[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
