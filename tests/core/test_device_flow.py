"""The device flow without a network: what is sent, and what every kind of answer means."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qproxy.core.device_flow import (
    DEFAULT_INTERVAL_S,
    LONGEST_PAUSE_S,
    DeviceCode,
    DeviceFlow,
    LoginState,
    OAuthClient,
    Pkce,
    Progress,
    device_form,
    parse_device_code,
    poll_form,
)
from qproxy.core.token_answer import TokenReply
from qproxy.errors import UpstreamError

CLIENT = OAuthClient("client", "openid profile")
PAGE = "https://chat.qwen.ai/authorize"
ANSWER = {
    "device_code": "d-code",
    "user_code": "ABCD",
    "verification_uri": PAGE,
    "verification_uri_complete": f"{PAGE}?user_code=ABCD",
    "expires_in": 60,
    "interval": 7,
}
GATEWAY = b"<html><h1>504 Gateway Time-out</h1></html>"


def reply(document: object, status: int = 200) -> TokenReply:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return TokenReply(status, None, body)


def error(code: str, status: int = 400) -> TokenReply:
    return reply({"error": code, "error_description": "Because."}, status)


def flow(interval_s: float = 7.0, expires_in_s: float = 60.0) -> DeviceFlow:
    return DeviceFlow(DeviceCode("d", "U", PAGE, PAGE, expires_in_s, interval_s), 1000.0)


class TestPkce:
    def test_the_example_of_the_standard(self) -> None:
        octets = [116, 24, 223, 180, 151, 153, 224, 37, 79, 250, 96, 125, 216, 173, 187, 186, 22, 212, 37, 77, 105, 214]
        pkce = Pkce.of(bytes([*octets, 191, 240, 91, 88, 5, 88, 83, 132, 141, 121]))  # RFC 7636 appendix B
        assert pkce.verifier == "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        assert pkce.challenge == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

    @given(random_bytes=st.binary(min_size=32, max_size=32))
    def test_the_challenge_proves_the_verifier_and_the_verifier_stays_hidden(self, random_bytes: bytes) -> None:
        pkce = Pkce.of(random_bytes)
        digest = hashlib.sha256(pkce.verifier.encode()).digest()
        assert base64.urlsafe_b64decode(pkce.challenge + "=") == digest
        assert len(pkce.verifier) == 43
        assert pkce.verifier not in repr(pkce)


class TestForms:
    PKCE = Pkce.of(bytes(32))

    def test_the_first_form_has_the_challenge_and_not_the_verifier(self) -> None:
        assert device_form(CLIENT, self.PKCE) == {
            "client_id": "client",
            "scope": "openid profile",
            "code_challenge": self.PKCE.challenge,
            "code_challenge_method": "S256",
        }

    def test_the_poll_has_the_verifier(self) -> None:
        assert poll_form(CLIENT, self.PKCE, "d-code") == {
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
            "client_id": "client",
            "device_code": "d-code",
            "code_verifier": self.PKCE.verifier,
        }

    def test_a_client_with_a_secret_sends_it_and_does_not_show_it(self) -> None:
        client = OAuthClient("client", "openid", "hush")
        assert device_form(client, self.PKCE)["client_secret"] == "hush"
        assert poll_form(client, self.PKCE, "d")["client_secret"] == "hush"
        assert "hush" not in repr(client)


class TestDeviceCode:
    @pytest.mark.parametrize("status", [200, 400])
    def test_the_field_counts_and_not_the_status(self, status: int) -> None:
        code = parse_device_code(reply(ANSWER, status))
        assert code == DeviceCode("d-code", "ABCD", PAGE, f"{PAGE}?user_code=ABCD", 60.0, 7.0)
        assert "d-code" not in repr(code)

    @pytest.mark.parametrize("interval", [None, 0, -1, "5", True])
    def test_without_a_usable_interval_it_is_five_seconds(self, interval: object) -> None:
        assert parse_device_code(reply({**ANSWER, "interval": interval})).interval_s == DEFAULT_INTERVAL_S

    def test_without_the_whole_address_the_bare_one_is_opened(self) -> None:
        bare = {name: value for name, value in ANSWER.items() if name != "verification_uri_complete"}
        assert parse_device_code(reply(bare)).page == PAGE

    @pytest.mark.parametrize(
        "page",
        [
            "",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "http://chat.qwen.ai/authorize",
            "https://",
            "https://[",
            "https://chat.qwen.ai/\x1b[2J",
            "https://chat.qwen.ai/a b",
            "--version",
        ],
    )
    def test_a_page_that_no_browser_should_open(self, page: str) -> None:
        with pytest.raises(UpstreamError, match="the page to open is no https address"):
            parse_device_code(reply({**ANSWER, "verification_uri": page, "verification_uri_complete": ""}))
        if page:
            with pytest.raises(UpstreamError, match="the page to open is no https address"):
                parse_device_code(reply({**ANSWER, "verification_uri_complete": page}))

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (error("invalid_client", 200), "invalid_client: Because."),
            (error("slow_down\x1b[31m", 429), r"slow_down \[31m: Because."),
            (reply(GATEWAY, 504), "it answered 504 without JSON"),
            (reply([], 200), "it answered 200 without JSON"),
            (reply({}, 500), ": 500."),
            (reply({**ANSWER, "device_code": 5}), ": 200."),
            (reply({**ANSWER, "device_code": "x" * 5000}), ": 200."),
        ],
    )
    def test_what_begins_no_login(self, answer: TokenReply, said: str) -> None:
        with pytest.raises(UpstreamError, match=said) as caught:
            parse_device_code(answer)
        assert caught.value.code == "upstream_protocol_error"

    def test_a_code_cannot_steer_the_terminal(self) -> None:
        assert parse_device_code(reply({**ANSWER, "user_code": "AB\x1b]0;x\x07CD"})).user_code == "AB ]0;x CD"

    @given(st.binary())
    def test_any_bytes_are_judged(self, body: bytes) -> None:
        with pytest.raises(UpstreamError):
            parse_device_code(reply(body))


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 400, 500])
    def test_a_token_is_a_success_with_any_status(self, status: int) -> None:
        answer = reply({"access_token": "hush", "error": "slow_down"}, status)
        progress = flow().judge(answer, 1001.0)
        assert progress == Progress(LoginState.DONE, reply=answer)
        assert "hush" not in repr(progress)

    @pytest.mark.parametrize("token", ["", None, 5, ["a"]])
    def test_a_token_that_is_none(self, token: object) -> None:
        assert flow().judge(reply({"access_token": token}), 1001.0).state is LoginState.PENDING

    @pytest.mark.parametrize(
        ("answer", "state"),
        [
            (error("authorization_pending"), LoginState.PENDING),
            (error("slow_down"), LoginState.SLOW_DOWN),
            (error("slow_down", 429), LoginState.SLOW_DOWN),
            (error("rate_limited", 429), LoginState.SLOW_DOWN),
            (reply(GATEWAY, 429), LoginState.SLOW_DOWN),
            (error("expired_token"), LoginState.EXPIRED),
            (error("access_denied"), LoginState.DENIED),
            (error("access_denied", 403), LoginState.DENIED),
            (error("invalid_token", 401), LoginState.EXPIRED),
            (error("invalid_grant"), LoginState.FAILED),
            (error("invalid_client", 200), LoginState.FAILED),
            (reply({}, 400), LoginState.FAILED),
            (error("server_error", 200), LoginState.PENDING),
            (error("oops", 503), LoginState.PENDING),
            (reply({}, 200), LoginState.PENDING),
            (reply(b'{"access_token": "half a', 200), LoginState.PENDING),
            (reply(GATEWAY, 504), LoginState.PENDING),
            (reply(GATEWAY, 403), LoginState.PENDING),
            (reply(b"", 302), LoginState.PENDING),
            (reply(GATEWAY, 404), LoginState.FAILED),
            (reply(b"", 405), LoginState.FAILED),
        ],
    )
    def test_every_other_kind(self, answer: TokenReply, state: LoginState) -> None:
        progress = flow().judge(answer, 1001.0)
        assert progress.state is state
        assert (progress.wait_s > 0) == state.is_open
        assert progress.reply is None

    def test_what_is_odd_is_told(self) -> None:
        assert flow().judge(error("authorization_pending"), 1001.0).note == ""
        assert "something before it answered (504)" in flow().judge(reply(GATEWAY, 504), 1001.0).note
        assert "invalid_grant: Because." in flow().judge(error("invalid_grant"), 1001.0).note
        assert "no token endpoint at this address (404)" in flow().judge(reply(GATEWAY, 404), 1001.0).note

    @given(body=st.binary(), status=st.integers(200, 599))
    def test_any_bytes_are_judged(self, body: bytes, status: int) -> None:
        assert flow().judge(reply(body, status), 1001.0).state is not LoginState.DONE

    @given(
        document=st.dictionaries(
            st.sampled_from(["error", "error_description", "access_token"]),
            st.none() | st.integers(-9, 9) | st.text(max_size=3) | st.just("slow_down"),
        )
    )
    def test_any_object_is_judged(self, document: dict[str, Any]) -> None:
        done = bool(document.get("access_token")) and isinstance(document["access_token"], str)
        assert (flow().judge(reply(document), 1001.0).state is LoginState.DONE) == done


class TestPace:
    def test_the_servers_interval_is_kept(self) -> None:
        login = flow(7.0)
        assert [login.judge(error("authorization_pending"), 1001.0).wait_s for _ in range(3)] == [7.0] * 3

    def test_slow_down_adds_five_seconds_for_good(self) -> None:
        login = flow(7.0)
        answers = [error("slow_down"), error("authorization_pending"), error("slow_down", 429), error("server_error")]
        assert [login.judge(answer, 1001.0).wait_s for answer in answers] == [12.0, 12.0, 17.0, 17.0]

    def test_losses_in_a_row_double_the_pause_until_an_answer_comes(self) -> None:
        login = flow(7.0, 6000.0)
        pauses = [login.lost("No network.", 1001.0).wait_s for _ in range(4)]
        assert pauses == [14.0, 28.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
        assert login.judge(error("authorization_pending"), 1002.0).wait_s == 7.0
        assert login.lost("No network.", 1003.0) == Progress(LoginState.PENDING, 14.0, "No network. Still trying.")

    def test_an_interval_above_the_longest_pause_is_kept(self) -> None:
        assert flow(45.0).lost("No network.", 1001.0).wait_s == 45.0

    def test_the_last_poll_is_at_the_end_of_the_code(self) -> None:
        login = flow(7.0, 60.0)
        assert (login.left_s(1057.0), login.judge(error("authorization_pending"), 1057.0).wait_s) == (3.0, 3.0)
        for late in (
            login.judge(error("authorization_pending"), 1060.0),
            login.judge(error("slow_down"), 1060.0),
            login.judge(reply(GATEWAY, 504), 1061.0),
            login.lost("No network.", 1061.0),
        ):
            assert late == Progress(LoginState.EXPIRED)
        assert login.judge(reply({"access_token": "t"}), 1061.0).state is LoginState.DONE
