"""What `qproxy check` finds out about one upstream, from its credential to its model list, stopping where it breaks."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import time
from dataclasses import dataclass
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
from qproxy.upstreams import PRESETS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
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
    findings: list[Finding] = []
    if upstream.kind == "qwen_oauth":
        findings += _modes(settings.login_file)
    try:
        credential = source.current()
    except QProxyError as exc:
        return [*findings, Finding("credential", "failed", exc.message)]
    findings.append(Finding("credential", "ok", source.state()))
    if upstream.kind == "qwen_oauth":
        findings.append(Finding("credential", "warning", FREE_TIER_ENDED))
    for check, step in _steps(settings, upstream, base_of(upstream, credential), credential):
        try:
            findings += await step
        except Broken as exc:
            return [*findings, Finding(check, "failed", str(exc))]
    return findings


def base_of(upstream: Upstream, credential: Credential) -> BaseUrl:
    """Where the upstream is: one of the two knows."""
    base = upstream.base or credential.base
    assert base is not None
    return base


def http_url(base: BaseUrl) -> str:
    """The base URL for an HTTP client, which knows by itself where a unix socket is."""
    return f"{base.scheme}://{base.authority}{base.path}"


def _steps(
    settings: Settings, upstream: Upstream, base: BaseUrl, credential: Credential
) -> Iterator[tuple[str, Awaitable[list[Finding]]]]:
    timeouts = settings.timeouts
    if base.socket_path is None:
        yield "dns", _resolve(base, timeouts.connect_s)
        yield "tcp", _connect(base, timeouts.connect_s)
    if base.scheme == "https":
        yield "tls", _handshake(base, timeouts.connect_s + timeouts.tls_s)
    yield "key", _ask_for_models(settings, upstream, base, credential)


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
    started = time.perf_counter()
    try:
        with anyio.fail_after(timeout_s):
            found = await anyio.getaddrinfo(base.host, base.port, type=socket.SOCK_STREAM)
    except TimeoutError as exc:
        raise Broken(f"{base.host}: no answer within {timeout_s:g} s") from exc
    except (OSError, UnicodeError) as exc:
        raise Broken(f"{base.host} cannot be resolved ({_reason(exc)})") from exc
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    if base.host in addresses:
        return []  # it was no name
    return [Finding("dns", "ok", f"{base.host} is {', '.join(addresses)}", _ms_since(started))]


async def _connect(base: BaseUrl, timeout_s: float) -> list[Finding]:
    started = time.perf_counter()
    try:
        with anyio.fail_after(timeout_s):
            stream = await anyio.connect_tcp(base.host, base.port)
    except TimeoutError as exc:
        raise Broken(f"{base.authority}: no connection within {timeout_s:g} s") from exc
    except OSError as exc:
        raise Broken(f"{base.authority} cannot be reached ({_reason(exc)})") from exc
    finding = Finding("tcp", "ok", f"connected to {base.authority}", _ms_since(started))
    await stream.aclose()
    return [finding]


async def _handshake(base: BaseUrl, timeout_s: float) -> list[Finding]:
    context = httpcore.default_ssl_context()
    started = time.perf_counter()
    try:
        with anyio.fail_after(timeout_s):
            stream = await anyio.connect_tcp(base.host, base.port, ssl_context=context, tls_standard_compatible=False)
    except TimeoutError as exc:
        raise Broken(f"{base.authority}: no TLS handshake within {timeout_s:g} s") from exc
    except ssl.SSLCertVerificationError as exc:
        raise Broken(f"the certificate of {base.host} is not trusted: {exc.verify_message}") from exc
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:
        raise Broken(f"{base.authority} does not answer in TLS ({_reason(exc)})") from exc
    version = stream.extra_attributes[TLSAttribute.tls_version]()
    finding = Finding("tls", "ok", f"{version}, the certificate is trusted", _ms_since(started))
    await stream.aclose()
    return [finding]


async def _ask_for_models(
    settings: Settings, upstream: Upstream, base: BaseUrl, credential: Credential
) -> list[Finding]:
    headers = [*upstream.headers, (b"user-agent", app.USER_AGENT.encode())]
    if credential.authorization:
        headers.append((b"authorization", credential.authorization))
    async with app.direct_client(settings, base) as client:
        started = time.perf_counter()
        try:
            with anyio.fail_after(ANSWER_S):
                response = await client.request("GET", f"{http_url(base)}/models", headers=headers)
        except TimeoutError:
            return [Finding("key", "failed", f"no answer to GET /models within {ANSWER_S:g} s")]
        except HTTP_ERRORS as exc:
            return [Finding("key", "failed", f"no answer to GET /models ({exc})")]
    return [_judge_key(upstream, response, _ms_since(started)), *_clock_skew(response)]


def _judge_key(upstream: Upstream, response: httpcore.Response, ms: float) -> Finding:
    """What the answer to `GET /models` says about the key."""
    if response.status == 200:
        return Finding("key", "ok", f"accepted, {_count_models(response.content)}", ms)
    said = refusal(response.status, response.content)
    if response.status in (401, 403):
        hint = PRESETS[upstream.name].hint if upstream.name in PRESETS else ""
        return Finding("key", "failed", f"refused: {said} {hint}".rstrip(), ms)
    if response.status == 404 and upstream.models:
        return Finding("key", "ok", "not refused; there is no model list, the built-in one is used", ms)
    if response.status == 404:
        return Finding("key", "warning", f"there is no GET /models: does the URL end with the API's base? {said}", ms)
    return Finding("key", "failed", f"GET /models answered {said}", ms)


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
    relation = "ahead of" if skew_s > 0 else "behind"
    detail = f"this clock is {abs(skew_s):.0f} s {relation} the upstream's"
    return [Finding("clock", "ok" if abs(skew_s) <= SKEW_S else "warning", detail)]


def _reason(exc: BaseException) -> str:
    """Why a connection failed; one attempt per address may have failed for its own reason."""
    if isinstance(exc, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_reason(each) for each in exc.exceptions))
    if isinstance(exc, OSError) and exc.errno is None and exc.__cause__ is not None:
        return _reason(exc.__cause__)
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
