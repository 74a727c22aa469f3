"""Every row of the table, at every level, through `load`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qproxy.config import Secret
from qproxy.config.login_options import LOGIN
from qproxy.config.option import Option
from qproxy.config.options import CONFIG, LIMITS, OPTIONS, TIMEOUTS
from qproxy.core.limits import Limits, Timeouts
from tests.support.config_place import Place

if TYPE_CHECKING:
    from qproxy.config import Settings

LOGIN_ONE, LOGIN_TWO = (
    json.dumps({"access_token": token, "refresh_token": "r", "token_type": "Bearer", "expiry_date": 4e12})
    for token in ("t-one", "t-two")
)
EXAMPLES: dict[str, tuple[object, object]] = {
    "host": ("127.0.0.2", "::1"),
    "port": (1234, 4321),
    "upstream": ("vllm", "ollama"),
    "upstream_key": ("k-one", "k-two"),
    "api_keys": (["k-one"], ["k-two", "k-three"]),
    "allow_open": (True, False),
    "allowed_hosts": (["a.example"], ["b.example:8080", "[::1]"]),
    "cors_origins": (["https://a.example"], ["*", "http://localhost:3000"]),
    "backend": ("asyncio", "trio"),
    "default_model": ("m-one", "m-two"),
    "include_usage": (True, False),
    "access_log": ("off", "/tmp/access.log"),
    "qwen_home": ("/tmp/one", "/tmp/two"),
    "oauth_base_url": ("https://one.example", "https://two.example"),
    "oauth_allowed_hosts": (["a.example"], ["*.b.example", "c.example"]),
    "admin_key": ("k-one", "k-two"),
    "rotation": ("round_robin", "fill_first"),
    "default_account": ("one", "two"),
    "pool_plan_keys": (True, False),
    "state_dir": ("/tmp/one", "/tmp/two"),
    "day_starts_at": ("16:00", "00:00+08:00"),
    "retry_on_5xx": (True, False),
    "breaker": (False, True),
    "stall_ms": (100, 0),
    "window_check": ("warn", "refuse"),
    "clamp_max_tokens": (True, False),
    "count_tokens": (True, False),
    "cache_watch": (False, True),
    "oauth_device_code_endpoint": ("https://one.example/code", "http://127.0.0.1:9/code"),
    "oauth_token_endpoint": ("https://one.example/token", "http://127.0.0.1:9/token"),
    "oauth_client_id": ("c-one", "c-two"),
    "oauth_client_secret": ("s-one", "s-two"),
    "oauth_scope": ("openid", "openid email"),
    "oauth_creds": (LOGIN_ONE, LOGIN_TWO),
    "oauth_creds_file": ("/tmp/one.json", "/tmp/two.json"),
    "oauth_cache": ("/tmp/one.cache", "/tmp/two.cache"),
    "refresh_buffer_ms": (20_000, 60_000),
    **{option.name: (11, 12) for option in LIMITS},
    **{option.name: (1.5, 2.0) for option in TIMEOUTS},
}
ROWS = [option for option in OPTIONS if option is not CONFIG]
every_row = pytest.mark.parametrize("option", ROWS, ids=lambda option: option.name)
every_flag = pytest.mark.parametrize(
    "option", [option for option in ROWS if option.flag], ids=lambda option: option.name
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def as_toml(option: Option[object], value: object) -> str:
    head = f"[{option.section}]\n" if option.section else ""
    return f"{head}{option.name} = {json.dumps(value)}\n"


def as_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def as_flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    return tuple(value) if isinstance(value, list) else str(value)


def effect(settings: Settings, option: Option[object]) -> object:
    """What the option came to, in the form of `EXAMPLES`."""
    if option.section:
        return getattr(getattr(settings, option.section), option.name)
    if option.name == "upstream":
        return settings.default_upstream
    if option.name == "upstream_key":
        key = settings.upstreams["vllm"].key
        return key.reveal() if key else None
    if option in LOGIN:
        value = getattr(settings.login, option.name.removeprefix("oauth_").removeprefix("qwen_"))
    else:
        value = getattr(settings, option.name)
    if option.name == "api_keys":
        return [key.reveal() for key in value]
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def prepare(place: Place, option: Option[object]) -> tuple[object, object]:
    if option.name == "upstream_key":
        place.flags["upstream"] = "vllm"
    if option.name == "oauth_cache":
        place.flags["oauth_creds"] = LOGIN_ONE
    return EXAMPLES[option.name]


@every_row
def test_the_file_is_above_the_default(place: Place, option: Option[object]) -> None:
    low, _ = prepare(place, option)
    place.write(as_toml(option, low))
    assert effect(place.load(), option) == low


@every_row
def test_dotenv_is_above_the_file(place: Place, option: Option[object]) -> None:
    low, high = prepare(place, option)
    place.write(as_toml(option, low))
    place.write_env(f"{option.variable}='{as_text(high)}'\n")
    assert effect(place.load(), option) == high


@every_row
def test_the_environment_is_above_dotenv(place: Place, option: Option[object]) -> None:
    low, high = prepare(place, option)
    place.write_env(f"{option.variable}='{as_text(low)}'\n")
    place.environ[option.variable] = as_text(high)
    assert effect(place.load(), option) == high


@every_flag
def test_a_flag_is_above_the_environment(place: Place, option: Option[object]) -> None:
    low, high = prepare(place, option)
    place.environ[option.variable] = as_text(low)
    place.flags[option.name] = as_flag(high)
    assert effect(place.load(), option) == high


@every_flag
@pytest.mark.parametrize("nothing", [None, ()])
def test_a_flag_that_is_not_given_changes_nothing(place: Place, option: Option[object], nothing: object) -> None:
    low, _ = prepare(place, option)
    place.environ[option.variable] = as_text(low)
    place.flags[option.name] = nothing
    assert effect(place.load(), option) == low


@every_row
def test_an_empty_variable_counts_as_not_set(place: Place, option: Option[object]) -> None:
    low, _ = prepare(place, option)
    place.write(as_toml(option, low))
    place.environ[option.variable] = ""
    place.write_env(f"{option.variable}=\n")
    assert effect(place.load(), option) == low


@every_row
@pytest.mark.parametrize("wrong", [[[]], {"a": 1}, "\x01"], ids=["list", "table", "text"])
def test_a_wrong_type_in_the_file_stops_the_start(place: Place, option: Option[object], wrong: object) -> None:
    prepare(place, option)
    inline = "{a = 1}" if isinstance(wrong, dict) else json.dumps(wrong)
    place.write((f"[{option.section}]\n" if option.section else "") + f"{option.name} = {inline}\n")
    message = place.refused()
    assert message.startswith(f"{option.name} in qproxy.toml = ")


def test_names_are_unique() -> None:
    for names in ([option.name for option in OPTIONS], [option.variable for option in OPTIONS]):
        assert len(set(names)) == len(names)


def test_every_limit_and_clock_can_be_set_and_has_its_own_default() -> None:
    assert [option.name for option in LIMITS] == [field.name for field in fields(Limits)]
    assert [option.name for option in TIMEOUTS] == [field.name for field in fields(Timeouts)]


def test_without_anything_the_defaults_hold(place: Place) -> None:
    settings = place.load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert (settings.limits, settings.timeouts) == (Limits(), Timeouts())
    assert (settings.default_upstream, dict(settings.upstreams)) == (None, {})
    assert settings.access_log == "stderr"
    assert settings.login_file == place.root / "home" / ".qwen" / "oauth_creds.json"
    assert settings.login.base_url == "https://chat.qwen.ai"
    assert settings.notices == ()


def test_the_file_of_the_working_folder_is_above_the_users_own(place: Place) -> None:
    place.write("port = 1", "config/qproxy.toml")
    assert place.load().port == 1
    place.write("port = 2")
    assert place.load().port == 2


def test_a_named_file_is_the_only_one(place: Place) -> None:
    place.write("port = 2")
    place.write("default_model = 'm'", "cwd/other.toml")
    place.environ["QPROXY_CONFIG"] = "other.toml"
    assert (place.load().port, place.load().default_model) == (8080, "m")
    place.flags["config"] = "missing.toml"
    assert place.refused() == "missing.toml cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("prot = 1", ["prot in qproxy.toml is unknown", "did you mean port?"]),
        ("config = 'x.toml'", ["config in qproxy.toml is unknown"]),
        ("[limits]\nbody_byte = 1", ["body_byte in [limits] in qproxy.toml", "did you mean body_bytes?"]),
        ("[timeouts]\nhead = 1", ["head in [timeouts]", "head_s"]),
        ("[[fallbacks]]\nfrom = 'a'", ["fallbacks in qproxy.toml is unknown", "did you mean fallback?"]),
        ("limits = 3", ["[limits] in qproxy.toml = 3", "a table"]),
        ("port = x", ["qproxy.toml cannot be read", "line 1"]),
        ('"\\n" = 1', ["'\\n' in qproxy.toml is unknown"]),
    ],
)
def test_a_file_that_cannot_be_meant(place: Place, toml: str, parts: list[str]) -> None:
    place.write(toml)
    message = place.refused()
    assert [part for part in parts if part not in message] == []


def test_a_file_that_is_not_utf_8(place: Place) -> None:
    place.write("")
    (place.cwd / "qproxy.toml").write_bytes(b"port = '\xff'")
    assert place.refused() == "qproxy.toml cannot be read: it is not UTF-8"
    (place.cwd / ".env").write_bytes(b"PORT=\xff")
    assert place.refused() == ".env cannot be read: it is not UTF-8"


def test_a_byte_order_mark_is_no_part_of_the_first_key(place: Place) -> None:
    place.write("\ufeffport = 1")
    place.write_env("\ufeffDEFAULT_MODEL=m")
    assert (place.load().port, place.load().default_model) == (1, "m")


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_an_unknown_variable_of_ours_stops_the_start(place: Place, where: str) -> None:
    if where == ".env":
        place.write_env("QPROXY_PROT=1")
    else:
        place.environ["QPROXY_PROT"] = "1"
    assert "did you mean QPROXY_PORT?" in place.refused()


def test_reading_dotenv_does_not_touch_or_use_the_real_environment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFAULT_MODEL", "real")
    monkeypatch.setenv("QPROXY_PORT", "1")
    place.write_env("QPROXY_DEFAULT_MODEL=${DEFAULT_MODEL}\n")
    assert (place.load().default_model, place.load().port) == ("${DEFAULT_MODEL}", 8080)
