"""The settings of the login, of accounts and of their state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from qproxy.config.options import ROTATIONS
from tests.support.config_place import Place

if TYPE_CHECKING:
    from pathlib import Path

LOGIN = json.dumps({"access_token": "hush", "refresh_token": "hush-r", "token_type": "Bearer", "expiry_date": 4e12})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_anything_it_is_the_clis_login(place: Place) -> None:
    login = place.load().login
    assert login.home == place.root / "home" / ".qwen"
    assert login.creds_file == login.home / "oauth_creds.json"
    assert login.device_code_endpoint == "https://chat.qwen.ai/api/v1/oauth2/device/code"
    assert login.token_endpoint == "https://chat.qwen.ai/api/v1/oauth2/token"
    assert (login.client_id, login.client_secret.reveal()) == ("f0304373b74a44d2b584a3fb70ca9e56", "")
    assert login.scope == "openid profile email model.completion"
    assert (login.creds, login.cache, login.refresh_buffer_ms) == (None, None, 30_000)
    assert not login.exists()


def test_the_variables_of_older_proxies(place: Place) -> None:
    place.environ |= {
        "QWEN_HOME": "~/logins",
        "QWEN_BASE_URL": "https://login.example/base/",
        "QWEN_TOKEN_ENDPOINT": "http://127.0.0.1:9/token",
        "QWEN_CLIENT_ID": "other",
        "QWEN_CLIENT_SECRET": "env:OTHER_SECRET",
        "OTHER_SECRET": "hush",
        "QWEN_SCOPE": "openid email",
        "TOKEN_REFRESH_BUFFER": "60000",
        "DEFAULT_ACCOUNT": "work",
    }
    settings = place.load()
    login = settings.login
    assert login.home == place.root / "home" / "logins"
    assert login.device_code_endpoint == "https://login.example/base/api/v1/oauth2/device/code"
    assert login.token_endpoint == "http://127.0.0.1:9/token"
    assert (login.client_id, login.client_secret.reveal(), login.scope) == ("other", "hush", "openid email")
    assert login.refresh_buffer_ms == 60_000
    assert settings.default_account == "work"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("name", ["QWEN_BASE_URL", "QWEN_DEVICE_CODE_ENDPOINT", "QWEN_TOKEN_ENDPOINT"])
@pytest.mark.parametrize("url", ["http://chat.qwen.ai/token", "http+unix:///run/login.sock", "chat.qwen.ai"])
def test_a_login_goes_by_https_or_stays_here(place: Place, name: str, url: str) -> None:
    place.environ[name] = url
    assert place.refused().startswith(f"{name} = '{url}': ")


@pytest.mark.parametrize("account", ["../up", "a b", ".a", "x" * 65])
def test_an_account_that_nobody_can_have(place: Place, account: str) -> None:
    place.environ["DEFAULT_ACCOUNT"] = account
    assert "must be up to 64 letters" in place.refused()


class TestLoginFromASetting:
    def test_it_is_told_where_it_is_kept(self, place: Place) -> None:
        place.environ["QWEN_OAUTH_CREDS"] = LOGIN
        settings = place.load()
        assert settings.login.creds is not None
        assert settings.login.creds.reveal() == LOGIN
        (notice,) = settings.notices
        assert "in memory only: a renewed token is lost with the process" in notice
        assert "hush" not in notice + repr(settings)
        place.environ["QWEN_OAUTH_CACHE"] = "kept.json"
        settings = place.load()
        assert settings.login.cache == place.cwd / "kept.json"
        assert settings.notices == (
            f"The login of the default account comes from oauth_creds, and is kept in {place.cwd / 'kept.json'}.",
        )

    @pytest.mark.parametrize("reference", ["env:MY_LOGIN", "file:login.json"])
    def test_by_reference(self, place: Place, reference: str) -> None:
        place.environ |= {"QWEN_OAUTH_CREDS": reference, "MY_LOGIN": LOGIN}
        place.write(LOGIN, "cwd/login.json")
        creds = place.load().login.creds
        assert creds is not None
        assert creds.reveal() == LOGIN

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ('{"access_token": "hush', "is not JSON"),
            ('{"access_token": "hush"}', "expiry_date is not a time"),
            (json.dumps({**json.loads(LOGIN), "resource_url": "evil.example"}), "names a host that is not on the list"),
            ("env:MISSING", "that variable must be set"),
            ("file:missing.json", "must be a readable file"),
        ],
    )
    def test_what_is_no_login(self, place: Place, value: str, reason: str) -> None:
        place.environ["QWEN_OAUTH_CREDS"] = value
        message = place.refused()
        assert message.startswith("QWEN_OAUTH_CREDS = ")
        assert reason in message
        assert "hush" not in message

    def test_two_default_logins_are_one_too_many(self, place: Place) -> None:
        place.environ |= {"QWEN_OAUTH_CREDS": LOGIN, "QWEN_OAUTH_CREDS_FILE": "/tmp/other.json"}
        assert "must not stand beside oauth_creds_file" in place.refused()

    def test_a_cache_alone_has_no_effect(self, place: Place) -> None:
        place.environ["QWEN_OAUTH_CACHE"] = "kept.json"
        assert place.load().notices == ("oauth_cache has no effect without oauth_creds.",)


@pytest.mark.parametrize("path", ["creds.json", "~/creds.json", "/elsewhere/creds.json"])
def test_another_file_of_the_default_account(place: Place, path: str) -> None:
    place.environ["QWEN_OAUTH_CREDS_FILE"] = path
    expected = {"c": place.cwd / "creds.json", "~": place.root / "home" / "creds.json"}.get(path[0], path)
    assert str(place.load().login_file) == str(expected)


@pytest.mark.parametrize(
    ("starts_at", "offset_s"),
    [("00:00", 0), ("16:00", 57_600), ("00:00+08:00", 57_600), ("00:00-05:00", 18_000), ("23:59+00:00", 86_340)],
)
def test_when_a_day_begins(place: Place, starts_at: str, offset_s: int) -> None:
    place.flags["day_starts_at"] = starts_at
    assert place.load().day_offset_s == offset_s


@pytest.mark.parametrize("starts_at", ["24:00", "8:00", "+08:00", "00:00+25:00", "00:00:30", "noon", "00:00Z", ""])
def test_times_that_are_none(place: Place, starts_at: str) -> None:
    place.write(f"day_starts_at = {json.dumps(starts_at)}")
    assert "must be a time of day such as 00:00 (UTC) or 00:00+08:00" in place.refused()


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_every_policy_can_be_chosen(place: Place, rotation: str) -> None:
    place.flags["rotation"] = rotation
    assert place.load().rotation == rotation


def test_policies_that_are_none(place: Place) -> None:
    place.flags["rotation"] = "random"
    assert place.refused() == ("--rotation = 'random': must be sticky, round_robin, least_in_flight or fill_first")


def test_where_the_state_is(place: Place) -> None:
    assert place.load().state_dir is None
    place.environ["QPROXY_HOME"] = "state"
    assert place.load().state_dir == place.cwd / "state"


def test_an_admin_key_by_reference(place: Place) -> None:
    assert place.load().admin_key is None
    place.environ |= {"QPROXY_ADMIN_KEY": "env:MINE", "MINE": "hush"}
    settings = place.load()
    assert settings.admin_key is not None
    assert settings.admin_key.reveal() == "hush"
    assert "hush" not in repr(settings)
