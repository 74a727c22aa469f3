"""What `qproxy check` finds out about one upstream, from its credential to its model list, stopping where it breaks."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

import anyio
import httpcore
from anyio.streams.tls import TLSAttribute

from qproxy import app
from qproxy.cli.chat import HTTP_ERRORS, refusal
from qproxy.core.catalogue import parse_listing
from qproxy.core.oauth import FREE_TIER_ENDED
from qproxy.errors import QProxyError
from qproxy.upstreams import KINDS, PRESETS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from qproxy.config import Settings
    from qproxy.core.ports import CredentialSource
    from qproxy.core.upstream import BaseUrl, Credential, Upstream

State = Literal["ok", "warning", "failed"]

SKEW_S = 30.0  # a login's token is left alone in its last 30 s: a clock that is off by more misjudges it
ANSWER_S = 20.0
OTHERS_MAY_READ = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `ms` is how long it took, where that says something."""

    check: str
    state: State
    detail: str
    ms: float | None = None


class Broken(Exception):
    """A step failed, so that the next ones need not be tried. The text says why."""


async def probe(settings: Settings, upstream: Upstream, source: CredentialSource) -> list[Finding]:
    """Everything about one upstream, in the order in which things go wrong."""
    findings = list(_credential(settings, upstream, source))
    try:
        credential = source.current()
    except QProxyError:
        return findings  # told already
    base = upstream.base or credential.base
    assert base is not None, "the upstream or its credential says where it is"
    findings += [Finding("settings", "warning", text) for text in KINDS[upstream.kind].mistakes(base, credential.secret)]
    for check, step in _steps(settings, upstream, base, credential):
        started = time.perf_counter()
        try:
            found = await step()
        except Broken as exc:
            return [*findings, Finding(check, "failed", str(exc), _ms_since(started))]
        findings += [replace(finding, ms=_ms_since(started)) for finding in found]
    return findings


def _steps(
    settings: Settings, upstream: Upstream, base: BaseUrl, credential: Credential
) -> Iterator[tuple[str, Callable[[], Awaitable[list[Finding]]]]]:
    timeouts = settings.timeouts
    if base.socket_path is None:
        yield "dns", lambda: _resolve(base, timeouts.connect_s)
        yield "tcp", lambda: _connect(base, timeouts.connect_s)
        if base.scheme == "https":
            yield "tls", lambda: _handshake(base, timeouts.connect_s + timeouts.tls_s)
    yield "key", lambda: _ask_for_models(settings, upstream, base, credential)


def _credential(settings: Settings, upstream: Upstream, source: CredentialSource) -> Iterator[Finding]:
    state = source.state()
    if upstream.kind != "qwen_oauth":
        yield Finding("credential", "ok", state)
        return
    yield Finding("credential", "ok" if state.startswith("valid") else "failed", f"login: {state}")
    yield Finding("credential", "warning", FREE_TIER_ENDED)
    yield from _modes(settings.login_file)


def _modes(login_file: Path) -> Iterator[Finding]:
    """Who else may read the login. Windows keeps no such bits."""
    if os.name == "nt":
        return
    for path, wanted in ((login_file.parent, "0700"), (login_file, "0600")):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue
        if mode & OTHERS_MAY_READ:
            yield Finding("file mode", "warning", f"{path} is open to others ({mode:04o}): chmod {wanted} {path}")
        else:
            yield Finding("file mode", "ok", f"{path} {mode:04o}")


async def _resolve(base: BaseUrl, timeout_s: float) -> list[Finding]:
    try:
        with anyio.fail_after(timeout_s):
            found = await anyio.getaddrinfo(base.host, base.port, type=socket.SOCK_STREAM)
    except TimeoutError as exc:
        raise Broken(f"{base.host}: no answer within {timeout_s:g} s") from exc
    except (OSError, UnicodeError) as exc:
        raise Broken(f"{base.host} cannot be resolved ({exc})") from exc
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    return [Finding("dns", "ok", f"{base.host} is {', '.join(addresses)}")]


async def _connect(base: BaseUrl, timeout_s: float) -> list[Finding]:
    try:
        with anyio.fail_after(timeout_s):
            stream = await anyio.connect_tcp(base.host, base.port)
    except TimeoutError as exc:
        raise Broken(f"{base.authority}: no connection within {timeout_s:g} s") from exc
    except OSError as exc:
        raise Broken(f"{base.authority} cannot be reached ({exc.__cause__ or exc})") from exc
    await stream.aclose()
    return [Finding("tcp", "ok", f"connected to {base.authority}")]


async def _handshake(base: BaseUrl, timeout_s: float) -> list[Finding]:
    try:
        with anyio.fail_after(timeout_s):
            stream = await anyio.connect_tcp(
                base.host, base.port, ssl_context=httpcore.default_ssl_context(), tls_standard_compatible=False
            )
    except TimeoutError as exc:
        raise Broken(f"{base.host}: no TLS handshake within {timeout_s:g} s") from exc
    except ssl.SSLCertVerificationError as exc:
        raise Broken(f"the certificate of {base.host} is not trusted: {exc.verify_message}") from exc
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:
        raise Broken(f"{base.authority} does not answer in TLS ({exc})") from exc
    version = stream.extra(TLSAttribute.tls_version)
    await stream.aclose()
    return [Finding("tls", "ok", f"{version}, the certificate is trusted")]


async def _ask_for_models(
    settings: Settings, upstream: Upstream, base: BaseUrl, credential: Credential
) -> list[Finding]:
    headers = [(b"authorization", credential.authorization)] if credential.authorization else []
    try:
        with anyio.fail_after(ANSWER_S):
            async with app.direct_client(settings, base) as client:
                response = await client.request("GET", f"{http_url(base)}/models", headers=headers)
    except TimeoutError as exc:
        raise Broken(f"no answer to GET /models within {ANSWER_S:g} s") from exc
    except HTTP_ERRORS as exc:
        raise Broken(f"no answer to GET /models ({exc})") from exc
    return [_judge_key(upstream, response), *_clock_skew(response)]


def _judge_key(upstream: Upstream, response: httpcore.Response) -> Finding:
    """What the answer to `GET /models` says about the key. Raises Broken where nothing will work."""
    if response.status == 200:
        return Finding("key", "ok", f"accepted, {_count_models(response.content)}")
    if response.status in (404, 405) and not upstream.has_model_list:
        return Finding("key", "ok", "this upstream has no model list; the built-in one is used")
    said = refusal(response.status, response.content)
    hint = PRESETS[upstream.name].hint if upstream.name in PRESETS else ""
    if response.status in (401, 403):
        raise Broken(f"refused: {said} {hint}".rstrip())
    if response.status == 404:
        return Finding("key", "warning", f"GET /models is not there: is the URL the API's base? {said}")
    raise Broken(f"GET /models answered {said}")


def _count_models(body: bytes) -> str:
    try:
        return f"{len(parse_listing(body, upstream=''))} models"
    except QProxyError:
        return "but the answer to GET /models is no model list"


def _clock_skew(response: httpcore.Response) -> list[Finding]:
    dates = [value for name, value in response.headers if name.lower() == b"date"]
    try:
        skew_s = time.time() - parsedate_to_datetime(dates[0].decode("ascii")).timestamp()
    except (IndexError, ValueError):
        return []
    state: State = "ok" if abs(skew_s) <= SKEW_S else "warning"
    relation = "ahead of" if skew_s > 0 else "behind"
    return [Finding("clock", state, f"this clock is {abs(skew_s):.0f} s {relation} the upstream's")]


def http_url(base: BaseUrl) -> str:
    """The base URL for an HTTP client, which knows by itself where the socket is."""
    return f"{base.scheme}://{base.authority}{base.path}"


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
