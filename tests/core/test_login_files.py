"""Names of accounts and of their files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.login_files import account_of, file_name, imported_account, is_account_id

IDS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True)


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "a b", "a/b", "a\\b", "x" * 65, "naïve", "a\n", "a\0", "a:b"])
def test_what_no_account_may_be_called(text: str) -> None:
    assert not is_account_id(text)
    assert account_of(f"oauth_creds_{text}.json") is None


@given(IDS)
def test_every_account_has_a_file_of_its_own(account: str) -> None:
    assert is_account_id(account)
    assert account_of(file_name(account)) == account


def test_the_default_account_has_the_files_of_the_cli() -> None:
    assert file_name("default") == "oauth_creds.json"
    assert account_of("oauth_creds.json") == "default"


@pytest.mark.parametrize(
    "name",
    [
        "oauth_creds_default.json",
        "oauth_creds_.json",
        "oauth_creds.lock",
        "oauth_creds_a.lock",
        "oauth_creds_a.json.tmp",
        "Oauth_creds.json",
        "settings.json",
        "",
    ],
)
def test_files_of_nobody(name: str) -> None:
    assert account_of(name) is None


@pytest.mark.parametrize(
    ("name", "account"),
    [
        ("oauth_creds.json", "default"),
        ("oauth_creds_work.json", "work"),
        ("qwen-bob@mail.example.json", "bob-mail.example"),
        ("qwen-bob+two@mail.example.json", "bob-two-mail.example"),
        ("backup", "backup"),
        ("oauth_creds_default.json", "default"),
        (".json", "json"),
        ("qwen-@.json", ""),
        (f"{'x' * 80}.json", "x" * 64),
    ],
)
def test_the_name_of_an_imported_account(name: str, account: str) -> None:
    assert imported_account(name) == account


@given(st.text(max_size=100))
def test_any_file_gives_a_usable_name_or_none(name: str) -> None:
    account = imported_account(name)
    assert account == "" or is_account_id(account)
