"""What a login's server answers, whatever that is: tokens that can be kept, a refusal that gives nothing away, and a
device login that goes on or ends."""

from __future__ import annotations

from qproxy.core.device_flow import LONGEST_S, DeviceFlow, LoginState, parse_device_code
from qproxy.core.oauth import is_sendable, token_of
from qproxy.core.token_answer import (
    LONGEST_LIFE_S,
    SHORTEST_LIFE_S,
    Denial,
    Grant,
    TokenReply,
    login_document,
    read_answer,
)
from qproxy.core.token_file import token_file
from qproxy.errors import UpstreamError
from tests.fuzz.token_files import CANARY, check_reason

STATUSES = (200, 400, 401, 429, 500)
NOW_S = 1_790_000_000.0
BEFORE = {"access_token": "old", "refresh_token": "old", "expiry_date": 1, "token_type": "Bearer", "kept": [1]}


def one_input(data: bytes) -> None:
    for status in STATUSES:
        reply = TokenReply(status, None, data)
        assert data not in repr(reply).encode() or len(data) < len(CANARY)
        _check_answer(reply)
        _check_device_login(reply)


def _check_answer(reply: TokenReply) -> None:
    answer = read_answer(reply)
    if isinstance(answer, Grant):
        _check_grant(answer)
        return
    check_reason(answer.reason)
    assert answer.denial is not Denial.FINAL or reply.status in (400, 401) or "invalid_grant" in answer.reason


def _check_grant(grant: Grant) -> None:
    assert is_sendable(grant.access_token)
    assert SHORTEST_LIFE_S <= grant.lifetime_s <= LONGEST_LIFE_S
    document = login_document(grant, NOW_S, BEFORE)
    assert document["kept"] == BEFORE["kept"]
    assert document["refresh_token"] == (grant.refresh_token or "old")
    assert token_file(document)
    try:
        token = token_of(document)
    except ValueError as exc:
        check_reason(str(exc))
        is_kept = False
    else:
        is_kept = True
        assert (token.access_token, token.refresh_token) == (grant.access_token, document["refresh_token"])
    assert is_kept or grant.resource_url is not None, "only an address that may not get the token is a reason"


def _check_device_login(reply: TokenReply) -> None:
    try:
        code = parse_device_code(reply)
    except UpstreamError:
        return
    assert all(map(str.isprintable, (code.user_code, code.bare_page, code.page)))
    assert 0 < code.interval_s <= LONGEST_S
    assert 0 < code.expires_in_s <= LONGEST_S
    flow = DeviceFlow(code, NOW_S)
    progress = flow.judge(reply, NOW_S)
    assert progress.state.is_open == (progress.wait_s > 0)
    assert progress.note.isprintable()
    assert flow.judge(reply, NOW_S + code.expires_in_s).state not in (LoginState.PENDING, LoginState.SLOW_DOWN)
