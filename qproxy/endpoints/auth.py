"""Logging in and looking at logins over HTTP, for whoever administers this server.

`POST /auth/initiate` begins a login and `POST /auth/poll` says how it stands; `/v1/debug/...` has both under the names
of an older proxy, with two more that show how the logins are. No answer holds a token.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import orjson

from qproxy.core.local import json_answer
from qproxy.core.login_files import ACCOUNT_ID_RULE, is_account_id
from qproxy.core.oauth import DEFAULT_ACCOUNT
from qproxy.core.route import LocalEndpoint
from qproxy.errors import DownstreamError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from qproxy.core.local import LocalAnswer, LocalRequest


async def _initiate(request: LocalRequest) -> LocalAnswer:
    """The field `account` may name another account than the default one."""
    account = _text(_fields(request.body), "account") or DEFAULT_ACCOUNT
    if not is_account_id(account):
        raise _invalid("account", f"must be {ACCOUNT_ID_RULE}")
    return json_answer(asdict(await request.services.device_logins.begin(account)))


async def _poll(request: LocalRequest) -> LocalAnswer:
    """Answers at once."""
    handle = _text(_fields(request.body), "handle")
    if not handle:
        raise _invalid("handle", "must be what /auth/initiate gave")
    return json_answer(asdict(request.services.device_logins.standing(handle)))


async def _token(request: LocalRequest) -> LocalAnswer:
    return json_answer({"accounts": [asdict(each) for each in request.services.diagnosis.tokens()]})


async def _test(request: LocalRequest) -> LocalAnswer:
    """One real call. 200 also where that fails: `ok` says so."""
    return json_answer(asdict(await request.services.diagnosis.test()))


def _fields(body: bytes) -> Mapping[str, object]:
    """The JSON object that was sent; empty where nothing was."""
    if not body.strip():
        return {}
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        message = f"The body is not JSON (line {exc.lineno}, column {exc.colno})."
        raise DownstreamError("invalid_json", message) from exc
    if isinstance(document, dict):
        return document
    raise DownstreamError("invalid_json", "The body must be a JSON object.")


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name, "")
    if isinstance(value, str):
        return value
    raise _invalid(name, "must be text")


def _invalid(name: str, rule: str) -> DownstreamError:
    return DownstreamError("invalid_json", f"The field {name!r} {rule}.", param=name)


def _row(
    name: str, path: bytes, method: bytes, answer: Callable[[LocalRequest], Awaitable[LocalAnswer]]
) -> LocalEndpoint:
    return LocalEndpoint(name, path, (method,), needs_key=False, answer=answer, needs_admin=True)


AUTH_ENDPOINTS: tuple[LocalEndpoint, ...] = (
    _row("auth_initiate", b"/auth/initiate", b"POST", _initiate),
    _row("auth_poll", b"/auth/poll", b"POST", _poll),
    _row("debug_auth_initiate", b"/v1/debug/auth/initiate", b"POST", _initiate),
    _row("debug_auth_poll", b"/v1/debug/auth/poll", b"POST", _poll),
    _row("debug_token", b"/v1/debug/token", b"GET", _token),
    _row("debug_auth_test", b"/v1/debug/auth/test", b"GET", _test),
)
