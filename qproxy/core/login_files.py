"""Which account a file of the login folder belongs to: `oauth_creds.json` is the CLI's own, the default account;
`oauth_creds_<id>.json` is that of `<id>` (`qwen-wire.md` 2.1)."""

from __future__ import annotations

import re

from qproxy.core.oauth import DEFAULT_ACCOUNT

ACCOUNT_ID_RULE = "up to 64 letters, digits, '-', '_' and '.', the first no '.'"
CUT_SUFFIX = ".cut"
OUT_SUFFIX = ".out"

_ID = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}"
_ACCOUNT_ID = re.compile(_ID)
_FILE_NAME = re.compile(rf"oauth_creds(?:_({_ID}))?\.json")


def is_account_id(text: str) -> bool:
    """Whether an account may be called so. The name becomes part of a file's name."""
    return _ACCOUNT_ID.fullmatch(text) is not None


def file_name(account: str) -> str:
    """The name of the account's file."""
    return "oauth_creds.json" if account == DEFAULT_ACCOUNT else f"oauth_creds_{account}.json"


def account_of(name: str) -> str | None:
    """The account whose file is called `name`; None: it is no account's. Nobody can be called like the default one."""
    match = _FILE_NAME.fullmatch(name)
    if match is None or match[1] == DEFAULT_ACCOUNT:
        return None
    return match[1] or DEFAULT_ACCOUNT


def imported_account(name: str) -> str:
    """The account's name in the name of another program's file: `qwen-<email>.json` becomes `<email>` with a `-` for
    every character that no name may have. Empty where nothing is left."""
    known = account_of(name)
    if known is not None:
        return known
    stem = name.rpartition(".")[0] or name
    wanted = stem.removeprefix("oauth_creds_").removeprefix("qwen-")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip(".-")[:64]
