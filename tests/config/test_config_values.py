"""Single values: what is refused, how it is told, and what older proxies' variables mean."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.config import Secret, options
from qproxy.config.option import Option
from tests.support.config_place import Place

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("QPROXY_PORT", "70000", "QPROXY_PORT = '70000': must be a whole number from 0 to 65535"),
        ("PORT", "http", "PORT = 'http': must be a whole number from 0 to 65535"),
        ("QPROXY_PORT", "1.5", "QPROXY_PORT = '1.5': must be a whole number from 0 to 65535"),
        ("QPROXY_PORT", "-1", "QPROXY_PORT = '-1': must be a whole number from 0 to 65535"),
        ("QPROXY_HOST", "a b", "QPROXY_HOST = 'a b': must be an address, a host name or unix:/path.sock"),
        ("QPROXY_HOST", "unix:rel", "QPROXY_HOST = 'unix:rel': a unix socket is written unix:/path.sock"),
        ("QPROXY_BACKEND", "gevent", "QPROXY_BACKEND = 'gevent': must be uvloop, asyncio or trio"),
        ("QPROXY_ALLOW_OPEN", "maybe", "QPROXY_ALLOW_OPEN = 'maybe': must be true or false"),
        ("QPROXY_HEAD_S", "0", "QPROXY_HEAD_S = '0': must be a number of seconds above 0, at most 86400"),
        ("QPROXY_HEAD_S", "nan", "QPROXY_HEAD_S = 'nan': must be a number of seconds above 0, at most 86400"),
        ("QPROXY_BODY_BYTES", "0", "QPROXY_BODY_BYTES = '0': must be a whole number from 1 to 1099511627776"),
    ],
)
def test_one_line_names_the_key_the_value_and_what_is_allowed(
    place: Place, variable: str, value: str, message: str
) -> None:
    place.environ[variable] = value
    assert place.refused() == message


@pytest.mark.parametrize(
    ("toml", "start"),
    [
        ("port = true", "port in qproxy.toml = True: must be a whole number"),
        ("port = '8080'", "port in qproxy.toml = '8080': must be a whole number"),
        ("port = 80.0", "port in qproxy.toml = 80.0: must be a whole number"),
        ("allow_open = 1", "allow_open in qproxy.toml = 1: must be true or false"),
        ("allowed_hosts = 'a'", "allowed_hosts in qproxy.toml = 'a': must be a list"),
        ("allowed_hosts = ['a:http']", "allowed_hosts in qproxy.toml = ['a:http']: must be a list"),
        ("allowed_hosts = ['a:0']", "allowed_hosts in qproxy.toml = ['a:0']: must be a list"),
        ("allowed_hosts = ['https://a']", "allowed_hosts in qproxy.toml = "),
        ("cors_origins = ['https://a.example/']", "cors_origins in qproxy.toml = "),
        ("cors_origins = ['a.example']", "cors_origins in qproxy.toml = "),
        ("oauth_allowed_hosts = ['*']", "oauth_allowed_hosts in qproxy.toml = "),
        ("oauth_allowed_hosts = ['*.com']", "oauth_allowed_hosts in qproxy.toml = "),
        ("oauth_base_url = 'http://chat.qwen.ai'", "oauth_base_url in qproxy.toml = "),
        ("[timeouts]\nhead_s = true", "head_s in qproxy.toml = True: must be a number of seconds"),
        ("[timeouts]\nhead_s = inf", "head_s in qproxy.toml = inf: must be a number of seconds"),
        ("api_keys = ['']", "api_keys in qproxy.toml = (hidden): must be a list of keys"),
        ("api_keys = ['a b']", "api_keys in qproxy.toml = (hidden): must be a key without spaces"),
    ],
)
def test_toml_values_keep_their_types(place: Place, toml: str, start: str) -> None:
    place.write(toml)
    assert place.refused().startswith(start)


@pytest.mark.parametrize(
    ("given_host", "host"),
    [("0.0.0.0", "0.0.0.0"), ("[::1]", "::1"), ("LocalHost", "localhost"), ("unix:/run/q.sock", "unix:/run/q.sock")],
)
def test_hosts_are_kept_in_one_form(place: Place, given_host: str, host: str) -> None:
    place.flags |= {"host": given_host, "allow_open": True}
    settings = place.load()
    assert settings.host == host
    assert settings.unix_socket == ("/run/q.sock" if host.startswith("unix:") else None)


@pytest.mark.parametrize(
    ("given_host", "host"),
    [
        ("Box.Example", "box.example"),
        ("box.example:8080", "box.example:8080"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("2001:DB8::1", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
    ],
)
def test_allowed_hosts_look_like_a_host_field(place: Place, given_host: str, host: str) -> None:
    place.flags["allowed_hosts"] = (given_host,)
    assert place.load().allowed_hosts == (host,)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "box.example"])
def test_an_open_proxy_is_refused_on_a_public_address(place: Place, host: str) -> None:
    place.flags["host"] = host
    message = place.refused()
    assert message.startswith(f"--host = '{host}'")
    assert "--api-key" in message
    assert "--allow-open" in message
    place.flags["allow_open"] = True
    assert place.load().allow_open
    place.flags |= {"allow_open": None, "api_keys": ("k",)}
    assert place.load().host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost", "unix:/run/q.sock"])
def test_no_key_is_needed_where_only_this_machine_can_connect(place: Place, host: str) -> None:
    place.flags["host"] = host
    assert place.load().api_keys == ()


class TestKeys:
    def test_references_are_followed(self, place: Place) -> None:
        place.write("from-file\n", "cwd/key")
        place.environ |= {"ONE": "from-environment"}
        place.write_env("TWO=from-dotenv\n")
        place.flags["api_keys"] = ("env:ONE", "env:TWO", "file:key", "plain")
        revealed = [key.reveal() for key in place.load().api_keys]
        assert revealed == ["from-environment", "from-dotenv", "from-file", "plain"]

    def test_a_path_in_the_file_starts_at_the_file(self, place: Place) -> None:
        place.write("of-config", "config/key")
        place.write("api_keys = ['file:key']", "config/qproxy.toml")
        assert place.load().api_keys == (Secret("of-config"),)

    @pytest.mark.parametrize(
        ("reference", "part"),
        [
            ("env:NOWHERE", "--api-key = env:NOWHERE: that variable must be set"),
            ("file:nowhere", "--api-key = file:nowhere: must be a readable file"),
            ("file:.", "must be a readable file"),
            ("file:empty", "must be a file that holds one key"),
            ("file:two", "must be a key without spaces"),
            ("file:long", "must be a file that holds one key"),
            ("file:binary", "must be a text file"),
            ("a\nb", "(hidden)"),
        ],
    )
    def test_a_reference_to_nothing_usable(self, place: Place, reference: str, part: str) -> None:
        place.write("", "cwd/empty")
        place.write("key-one\nkey-two", "cwd/two")
        place.write("k" * 70_000, "cwd/long")
        (place.cwd / "binary").write_bytes(b"\xff")
        place.flags["api_keys"] = (reference,)
        message = place.refused()
        assert part in message
        assert "key-one" not in message

    @given(value=st.text(min_size=1))
    def test_a_secret_is_shown_nowhere(self, value: str) -> None:
        secret = Secret(value)
        assert {repr(secret), str(secret), f"{secret}", f"{secret!r}"} == {"Secret(hidden)"}
        assert secret.reveal() == value
        assert secret == Secret(value)
        assert hash(secret) == hash(Secret(value))
        for write in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError):
                write(secret)

    def test_settings_show_no_key(self, place: Place) -> None:
        place.flags |= {"api_keys": ("hush-client",), "upstream": "vllm", "upstream_key": "hush-upstream"}
        assert "hush" not in repr(place.load())

    @pytest.mark.parametrize(
        "upstream", ["https://me:hush@host/v1", "https://host/v1?key=hush", "sk-hush", "vllm --key sk-hush"]
    )
    def test_a_key_in_the_wrong_place_is_not_shown(self, place: Place, upstream: str) -> None:
        place.flags["upstream"] = upstream
        assert "hush" not in place.refused()


class TestOlderProxies:
    def test_their_variables_keep_their_meaning(self, place: Place) -> None:
        place.environ |= {
            "HOST": "127.0.0.3",
            "PORT": "9000",
            "API_KEY": "one, two,",
            "DEFAULT_MODEL": "m",
            "QWEN_BASE_URL": "https://chat.example",
            "LLM_BACKEND": "qwen-oauth",
            "QWEN_HOME": "/tmp/qwen",
        }
        settings = place.load()
        assert (settings.host, settings.port, settings.default_model) == ("127.0.0.3", 9000, "m")
        assert [key.reveal() for key in settings.api_keys] == ["one", "two"]
        assert settings.login.base_url == "https://chat.example"
        assert settings.default_upstream == "qwen-oauth"
        assert str(settings.login_file) == "/tmp/qwen/oauth_creds.json"

    @pytest.mark.parametrize("option", [option for option in options.OPTIONS if option.legacy], ids=lambda o: o.name)
    def test_our_own_names_win_at_the_same_level_only(self, place: Place, option: Option[object]) -> None:
        (legacy,) = option.legacy
        place.environ |= {option.variable: "\x01", legacy: "\x02"}
        assert place.refused().startswith(option.variable)
        place.environ = {legacy: "\x02"}
        place.write_env(f"{option.variable}='x'")
        assert place.refused().startswith(legacy)

    def test_a_shells_openai_key_is_no_client_key(self, place: Place) -> None:
        place.environ["OPENAI_API_KEY"] = "sk-of-the-shell"
        assert place.load().api_keys == ()

    def test_an_openai_key_in_dotenv_or_the_file_is_one(self, place: Place) -> None:
        place.write("OPENAI_API_KEY = 'one,two'")
        assert place.load().api_keys == (Secret("one"), Secret("two"))
        place.write_env("OPENAI_API_KEY=three")
        assert place.load().api_keys == (Secret("three"),)
        place.write_env("OPENAI_API_KEY=three\nAPI_KEY=four")
        assert place.load().api_keys == (Secret("four"),)

    @pytest.mark.parametrize("value", ["true", "false"])
    def test_stream_is_answered_with_a_notice(self, place: Place, value: str) -> None:
        place.environ["STREAM"] = value
        (notice,) = place.load().notices
        assert notice.startswith("STREAM has no effect")
