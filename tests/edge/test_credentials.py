from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qproxy.core.oauth import FREE_TIER_ENDED
from qproxy.edge.credentials import OAuthFile, StaticKey
from qproxy.edge.token_file import MAX_FILE_BYTES
from qproxy.errors import AccountError

if TYPE_CHECKING:
    from qproxy.core.ports import CredentialSource

NOW_S = 1_700_000_000.0
DESCRIPTORS = Path("/proc/self/fd")


class Clock:
    """Unix time that moves only when a test says so."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Login:
    """A credentials file, its clock and the source that reads it."""

    def __init__(self, folder: Path, hosts: tuple[str, ...] = ()) -> None:
        self.path = folder / "oauth_creds.json"
        self.clock = Clock()
        self.source = OAuthFile(self.path, hosts, self.clock)
        self._versions = 0

    def put(self, data: bytes) -> None:
        """A new version of the file, published the way the CLI does it: with a rename."""
        self._versions += 1
        temporary = self.path.with_suffix(f".{self._versions}.tmp")
        temporary.write_bytes(data)
        temporary.replace(self.path)

    def put_token(self, token: str, minutes: float = 60) -> None:
        self.put(document(token, minutes))

    def after(self, seconds: float) -> CredentialSource:
        self.clock.now_s += seconds
        return self.source

    def token(self) -> str:
        """What is used now, after enough time that a new file would be noticed."""
        return self.after(1.0).current().secret

    def failure(self) -> AccountError:
        with pytest.raises(AccountError) as caught:
            self.after(1.0).current()
        return caught.value


def document(token: str, minutes: float = 60) -> bytes:
    expiry_ms = int((NOW_S + minutes * 60) * 1000)
    return json.dumps(
        {"access_token": token, "refresh_token": "r", "token_type": "Bearer", "expiry_date": expiry_ms}
    ).encode()


@pytest.fixture
def login(tmp_path: Path) -> Login:
    return Login(tmp_path)


def test_a_configured_key_never_changes() -> None:
    source: CredentialSource = StaticKey("sk-1")
    assert source.current() is source.current()
    assert source.current().authorization == b"Bearer sk-1"
    assert (source.state(), StaticKey("").state()) == ("key set", "no key")
    assert StaticKey("").current().authorization == b""
    assert "sk-1" not in repr(source.current())


def test_a_valid_login_gives_the_token_and_its_address(login: Login) -> None:
    login.put_token("one")
    credential = login.source.current()
    assert credential.secret == "one"
    assert str(credential.base) == "https://portal.qwen.ai/v1"
    assert login.source.state() == "valid 60 min"


def test_the_same_file_gives_the_same_credential(login: Login) -> None:
    login.put_token("one")
    first = login.source.current()
    os.utime(login.path, ns=(1, login.path.stat().st_mtime_ns))
    assert login.after(5).current() is first


def test_a_new_file_is_noticed_within_a_second_and_not_sooner(login: Login) -> None:
    login.put_token("one")
    assert login.source.current().secret == "one"
    login.put_token("two")
    assert login.after(0.9).current().secret == "one"
    assert login.after(0.2).current().secret == "two"


def test_a_clock_that_was_set_back_does_not_stop_the_looking(login: Login) -> None:
    login.put_token("one")
    assert login.source.current().secret == "one"
    login.put_token("two")
    assert login.after(-3600).current().secret == "two"


def test_a_file_written_in_place_with_the_same_length_is_noticed(login: Login) -> None:
    login.put_token("one")
    assert login.source.current().secret == "one"
    before = login.path.stat()
    login.path.write_bytes(document("two"))
    os.utime(login.path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert login.token() == "two"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xef\xbb\xbf{}", document("two")[:30], b"{}"])
def test_a_damaged_file_does_not_take_a_good_token_away(login: Login, damage: bytes) -> None:
    login.put_token("one")
    assert login.source.current().secret == "one"
    login.put(damage)
    assert login.token() == "one"
    assert login.source.state().startswith("valid")
    login.put_token("two")
    assert login.token() == "two"


@settings(max_examples=40)
@given(end=st.integers(0, len(document("two")) - 1))
def test_a_half_written_file_is_completed_later(tmp_path_factory: pytest.TempPathFactory, end: int) -> None:
    login = Login(tmp_path_factory.mktemp("login"))
    login.put_token("one")
    assert login.source.current().secret == "one"
    login.path.write_bytes(document("two")[:end])
    assert login.token() == "one"
    login.path.write_bytes(document("two"))
    assert login.token() == "two"


def test_a_vanished_file_leaves_the_token_until_it_expires(login: Login) -> None:
    login.put_token("one", minutes=2)
    assert login.source.current().secret == "one"
    login.path.unlink()
    assert login.token() == "one"
    login.clock.now_s += 120
    assert "expired" in login.failure().message


def test_no_login_at_all(login: Login) -> None:
    error = login.failure()
    assert (error.code, error.kind.status) == ("credentials_unavailable", 503)
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 1
    assert "no Qwen login" in error.message
    assert FREE_TIER_ENDED in error.message
    assert login.source.state() == "not logged in"


def test_an_expired_login_and_its_replacement(login: Login) -> None:
    login.put_token("one", minutes=0.4)  # within the 30 s that are left alone
    assert "has expired" in login.failure().message
    assert login.source.state() == "expired"
    login.put_token("two")
    assert login.token() == "two"


def test_a_message_names_neither_path_nor_token(login: Login) -> None:
    for data in (b"", b"{", b'{"access_token": "hush-hush", "expiry_date": "x"}', document("hush-hush", minutes=-5)):
        login.put(data)
        message = login.failure().message
        assert "hush-hush" not in message
        assert str(login.path.parent) not in message
        assert "oauth_creds" not in message


def test_the_largest_file_that_is_read(login: Login) -> None:
    login.put(document("one").ljust(MAX_FILE_BYTES))
    assert login.token() == "one"
    login.put(document("two").ljust(MAX_FILE_BYTES + 1))
    assert login.token() == "one"
    assert "1 MiB" in Login(login.path.parent).failure().message


def test_a_folder_in_its_place(login: Login) -> None:
    login.path.mkdir()
    assert "not a regular file" in login.failure().message
    assert login.source.state() == "unusable: it is not a regular file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_in_its_place_does_not_block(login: Login) -> None:
    os.mkfifo(login.path)
    assert "not a regular file" in login.failure().message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(login: Login) -> None:
    login.put_token("one")
    login.path.chmod(0)
    assert "cannot be read" in login.failure().message


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="no /proc here")
def test_no_descriptor_stays_open(login: Login) -> None:
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(20):
        login.put(b"{")
        login.failure()
    login.path.unlink()
    login.path.mkdir()
    login.failure()
    assert len(list(DESCRIPTORS.iterdir())) == before


def test_a_host_that_a_setting_allows(tmp_path: Path) -> None:
    login = Login(tmp_path, hosts=("gate.example",))
    fields = json.loads(document("one")) | {"resource_url": "gate.example"}
    login.put(json.dumps(fields).encode())
    assert login.token() == "one"
    assert "not on the list" in Login(tmp_path).failure().message
