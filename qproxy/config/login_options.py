"""The rows of the table that concern the Qwen login. Their variables without `QPROXY_` are those of older proxies."""

from __future__ import annotations

from qproxy.config import values
from qproxy.config.option import AnyOption, Option
from qproxy.config.values import Secret

PUBLIC_CLIENT_ID = "f0304373b74a44d2b584a3fb70ca9e56"  # the official CLI's; it has no secret (`qwen-wire.md` 1.1)
HOUR_MS = 3_600_000
LOGIN_URL = "an https URL, or an http URL of this machine"

QWEN_HOME = Option(
    "qwen_home",
    values.text("a path", values.non_empty),
    "",
    "Folder of the logins, which is the Qwen CLI's (default: ~/.qwen).",
    flag="qwen-home",
    legacy=("QWEN_HOME",),
)
OAUTH_BASE_URL = Option(
    "oauth_base_url",
    values.text(LOGIN_URL, values.login_url),
    "https://chat.qwen.ai",
    "Host of the Qwen login.",
    flag="oauth-base-url",
    legacy=("QWEN_BASE_URL",),
)
OAUTH_DEVICE_CODE_ENDPOINT = Option(
    "oauth_device_code_endpoint",
    values.text(LOGIN_URL, values.login_url),
    "",
    "Where a login begins (default: /api/v1/oauth2/device/code at the login's host).",
    flag="oauth-device-code-endpoint",
    legacy=("QWEN_DEVICE_CODE_ENDPOINT",),
)
OAUTH_TOKEN_ENDPOINT = Option(
    "oauth_token_endpoint",
    values.text(LOGIN_URL, values.login_url),
    "",
    "Where tokens come from (default: /api/v1/oauth2/token at the login's host).",
    flag="oauth-token-endpoint",
    legacy=("QWEN_TOKEN_ENDPOINT",),
)
OAUTH_CLIENT_ID = Option(
    "oauth_client_id",
    values.text("a client id", values.non_empty),
    PUBLIC_CLIENT_ID,
    "Client id of the login.",
    flag="oauth-client-id",
    legacy=("QWEN_CLIENT_ID",),
)
OAUTH_CLIENT_SECRET = Option(
    "oauth_client_secret",
    values.secret(),
    Secret(""),
    "Client secret of the login, where the client has one: itself, env:NAME or file:PATH.",
    flag="oauth-client-secret",
    legacy=("QWEN_CLIENT_SECRET",),
)
OAUTH_SCOPE = Option(
    "oauth_scope",
    values.text("scopes with spaces between them", values.non_empty),
    "openid profile email model.completion",
    "What a login asks for.",
    flag="oauth-scope",
    legacy=("QWEN_SCOPE",),
)
OAUTH_ALLOWED_HOSTS: Option[tuple[str, ...]] = Option(
    "oauth_allowed_hosts",
    values.texts("a host name, or *.name for all below it", values.token_host),
    (),
    "Further host that may be sent the login's token; may be repeated.",
    flag="oauth-allowed-host",
)
OAUTH_CREDS = Option(
    "oauth_creds",
    values.secret("a login in JSON, env:NAME or file:PATH"),
    Secret(""),
    "The default account's login, kept in memory only: its JSON, env:NAME or file:PATH.",
    flag="oauth-creds",
    legacy=("QWEN_OAUTH_CREDS",),
)
OAUTH_CREDS_FILE = Option(
    "oauth_creds_file",
    values.text("a path", values.non_empty),
    "",
    "The default account's file (default: oauth_creds.json in the folder of the logins).",
    flag="oauth-creds-file",
    legacy=("QWEN_OAUTH_CREDS_FILE",),
)
OAUTH_CACHE = Option(
    "oauth_cache",
    values.text("a path", values.non_empty),
    "",
    "File that keeps what becomes of the login given as oauth_creds.",
    flag="oauth-cache",
    legacy=("QWEN_OAUTH_CACHE",),
)
REFRESH_BUFFER_MS = Option(
    "refresh_buffer_ms",
    values.whole_number(0, HOUR_MS),
    30_000,
    "A token is renewed at the latest when it has so many milliseconds left.",
    flag="refresh-buffer-ms",
    legacy=("TOKEN_REFRESH_BUFFER",),
)

LOGIN: tuple[AnyOption, ...] = (
    QWEN_HOME,
    OAUTH_BASE_URL,
    OAUTH_DEVICE_CODE_ENDPOINT,
    OAUTH_TOKEN_ENDPOINT,
    OAUTH_CLIENT_ID,
    OAUTH_CLIENT_SECRET,
    OAUTH_SCOPE,
    OAUTH_ALLOWED_HOSTS,
    OAUTH_CREDS,
    OAUTH_CREDS_FILE,
    OAUTH_CACHE,
    REFRESH_BUFFER_MS,
)
