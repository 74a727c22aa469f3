"""The file of a login, as any program may have left it: a usable token, or a reason that gives nothing away."""

from __future__ import annotations

from qproxy.core.oauth import OAuthToken, is_sendable, may_get_token, parse_token_file, token_of
from qproxy.core.token_file import imported_document, token_file

CANARY = "canary7"
"""Stands in the values of the corpus: what comes out must not say it."""


def one_input(data: bytes) -> None:
    token = _parsed(data)
    if token is not None:
        _check_usable(token)
        assert _parsed(token_file(token.document)) == token
    _check_imported(data)


def check_reason(reason: str) -> None:
    """What people are told has nothing of the values in it."""
    assert CANARY not in reason.lower()
    assert reason.isprintable()


def _parsed(data: bytes) -> OAuthToken | None:
    try:
        return parse_token_file(data)
    except ValueError as exc:
        check_reason(str(exc))
        return None


def _check_usable(token: OAuthToken) -> None:
    assert is_sendable(token.access_token)
    assert may_get_token(token.base)
    assert token.expires_ms > 0
    assert token.access_token not in repr(token) or len(token.access_token) < len(CANARY)
    assert str(token.base).isascii()
    assert not set(" \r\n\t\0") & set(str(token.base))


def _check_imported(data: bytes) -> None:
    """Another program's file is one of ours after the import, or is refused."""
    try:
        document = imported_document(data)
        token = token_of(document)
    except ValueError as exc:
        check_reason(str(exc))
        return
    assert parse_token_file(token_file(document)) == token
