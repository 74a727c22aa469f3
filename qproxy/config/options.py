"""The one table of settings: a row gives its flag, its variable, its key in the file and its help."""

from __future__ import annotations

import importlib.util

from qproxy.config import values
from qproxy.config.login_options import LOGIN
from qproxy.config.option import AnyOption, Option
from qproxy.config.prompt_options import PROMPTS
from qproxy.config.values import Secret
from qproxy.core.limits import Limits, Timeouts
from qproxy.core.login_files import ACCOUNT_ID_RULE
from qproxy.core.rotation import DEFAULT_POLICY, POLICIES

DAY_S = 86_400.0
UVLOOP_INSTALLED = importlib.util.find_spec("uvloop") is not None
ROTATIONS = tuple(POLICIES)


def _backend(value: str) -> str:
    if value == "uvloop" and not UVLOOP_INSTALLED:
        raise ValueError("uvloop is not installed here; use asyncio or trio")
    if value in ("uvloop", "asyncio", "trio"):
        return value
    raise ValueError


def _rotation(value: str) -> str:
    if value in ROTATIONS:
        return value
    raise ValueError


CONFIG = Option(
    "config",
    values.text("the path of a TOML file", values.non_empty),
    "",
    "Settings file (default: ./qproxy.toml, else qproxy.toml in the user's configuration folder).",
    flag="config",
    in_file=False,
)
HOST = Option(
    "host",
    values.text("an address, a host name or unix:/path.sock", values.bind_host),
    "127.0.0.1",
    "Address to listen on, or unix:/path.sock.",
    flag="host",
    legacy=("HOST",),
)
PORT = Option(
    "port",
    values.whole_number(0, 65535),
    8080,
    "Port to listen on; 0 picks a free one.",
    flag="port",
    legacy=("PORT",),
)
UPSTREAM = Option(
    "upstream",
    values.text("a preset, the name of an [upstreams.NAME] table or a URL", values.non_empty),
    "",
    "Default upstream: a preset, the name of an [upstreams.NAME] table, or a URL (http, https, http+unix).",
    flag="upstream",
    legacy=("LLM_BACKEND",),
)
UPSTREAM_KEY = Option(
    "upstream_key",
    values.secret(),
    Secret(""),
    "Key of the default upstream: the key itself, env:NAME or file:PATH.",
    flag="upstream-key",
)
API_KEYS: Option[tuple[Secret, ...]] = Option(
    "api_keys",
    values.secrets(),
    (),
    "Key that clients must send: the key itself, env:NAME or file:PATH; may be repeated.",
    flag="api-key",
    legacy=("API_KEY",),
    private_legacy=("OPENAI_API_KEY",),
)
ALLOW_OPEN = Option(
    "allow_open",
    values.switch(),
    False,
    "Listen on a public address although no client key is set.",
    flag="allow-open",
)
ALLOWED_HOSTS: Option[tuple[str, ...]] = Option(
    "allowed_hosts",
    values.texts("a host name or an address, with a port or without", values.authority),
    (),
    "Further Host (or Host:port) that is served while no client key is set; may be repeated.",
    flag="allowed-host",
)
CORS_ORIGINS: Option[tuple[str, ...]] = Option(
    "cors_origins",
    values.texts("an origin such as https://app.example, or *", values.origin),
    (),
    "Origin whose browser pages may call the proxy; may be repeated.",
    flag="cors-origin",
)
BACKEND = Option(
    "backend",
    values.text("uvloop, asyncio or trio", _backend),
    "uvloop" if UVLOOP_INSTALLED else "asyncio",
    "Event loop: uvloop, asyncio or trio.",
    flag="backend",
)
DEFAULT_MODEL = Option(
    "default_model",
    values.text("a model's name", values.model_name),
    "",
    "Model for requests that name none.",
    flag="default-model",
    legacy=("DEFAULT_MODEL",),
)
INCLUDE_USAGE = Option(
    "include_usage",
    values.switch(),
    False,
    "Ask for the usage chunk on every stream (stream_options.include_usage).",
    flag="include-usage",
)
ACCESS_LOG = Option(
    "access_log",
    values.text("off, stderr or a path", values.non_empty),
    "stderr",
    "Where the access log goes: off, stderr, or a path.",
    flag="access-log",
)
ADMIN_KEY = Option(
    "admin_key",
    values.secret(),
    Secret(""),
    "Key for /auth and /v1/debug: the key itself, env:NAME or file:PATH. Without one, this machine alone may use them.",
    flag="admin-key",
)
ROTATION = Option(
    "rotation",
    values.text(" or ".join([", ".join(ROTATIONS[:-1]), ROTATIONS[-1]]), _rotation),
    DEFAULT_POLICY,
    "Which account of an upstream is next: sticky, round_robin, least_in_flight or fill_first.",
    flag="rotation",
)
DEFAULT_ACCOUNT = Option(
    "default_account",
    values.text(ACCOUNT_ID_RULE, values.account_id),
    "",
    "Account that fill_first begins with.",
    flag="default-account",
    legacy=("DEFAULT_ACCOUNT",),
)
POOL_PLAN_KEYS = Option(
    "pool_plan_keys",
    values.switch(),
    False,
    "Take turns with several keys of a plan, which the plans' terms forbid.",
    flag="pool-plan-keys",
)
STATE_DIR = Option(
    "state_dir",
    values.text("a path", values.non_empty),
    "",
    "Folder for counts and the state of accounts (default: qproxy in the user's data folder).",
    flag="home",
)
DAY_STARTS_AT = Option(
    "day_starts_at",
    values.text("a time of day such as 00:00 (UTC) or 00:00+08:00", values.time_of_day),
    "00:00",
    "When the counts of a day begin anew.",
    flag="day-starts-at",
)
RETRY_ON_5XX = Option(
    "retry_on_5xx",
    values.switch(),
    False,
    "Ask another account once more after a 500, 502 or 504, although work may be done twice.",
    flag="retry-on-5xx",
)
BREAKER = Option(
    "breaker",
    values.switch(),
    True,
    "Leave an upstream alone for a moment when it cannot be reached again and again.",
    flag="breaker",
)
STALL_MS = Option(
    "stall_ms",
    values.whole_number(0, 60_000),
    50,
    "Log where the event loop stood still for longer than so many milliseconds; 0: do not watch it.",
    flag="stall-ms",
)

BASIC: tuple[AnyOption, ...] = (
    CONFIG,
    HOST,
    PORT,
    UPSTREAM,
    UPSTREAM_KEY,
    API_KEYS,
    ALLOW_OPEN,
    ALLOWED_HOSTS,
    CORS_ORIGINS,
    BACKEND,
    DEFAULT_MODEL,
    INCLUDE_USAGE,
    ACCESS_LOG,
    ADMIN_KEY,
    ROTATION,
    DEFAULT_ACCOUNT,
    POOL_PLAN_KEYS,
    STATE_DIR,
    DAY_STARTS_AT,
    RETRY_ON_5XX,
    BREAKER,
    STALL_MS,
    *PROMPTS,
    *LOGIN,
)


def _limit(name: str, maximum: int, help_text: str, minimum: int = 1) -> Option[int]:
    return Option(name, values.whole_number(minimum, maximum), getattr(Limits(), name), help_text, section="limits")


def _timeout(name: str, help_text: str) -> Option[float]:
    return Option(name, values.seconds(DAY_S), getattr(Timeouts(), name), help_text, section="timeouts")


def _timeout_or_zero(name: str, help_text: str) -> Option[float]:
    return Option(name, values.seconds_or_zero(DAY_S), getattr(Timeouts(), name), help_text, section="timeouts")


_GIB = 1024**3

LIMITS: tuple[Option[int], ...] = (
    _limit("head_bytes", _GIB, "Largest request head, in bytes."),
    _limit("head_lines", 100_000, "Most header lines of a request."),
    _limit("target_bytes", _GIB, "Longest request target, in bytes."),
    _limit("body_bytes", 1024 * _GIB, "Largest request body, in bytes."),
    _limit("upload_bytes", 1024 * _GIB, "Largest one that is no JSON: files, audio, images; 0: body_bytes.", minimum=0),
    _limit("inspect_bytes", _GIB, "Bodies up to this size are checked whole before anything is sent.", minimum=0),
    _limit("replay_bytes", 1024 * _GIB, "Bodies up to here are kept while they go up, to be sent again.", minimum=0),
    _limit("replay_total_bytes", 1024 * _GIB, "Most that is kept so at once; what comes then is sent once.", minimum=0),
    _limit("upstream_head_bytes", _GIB, "Largest head of an upstream's answer, in bytes."),
    _limit("upstream_head_lines", 100_000, "Most header lines of an upstream's answer."),
    _limit("max_connections", 10_000_000, "Most client connections; 0: from the descriptor limit.", minimum=0),
    _limit("max_per_address", 10_000_000, "Most connections from one client address; 0: no limit.", minimum=0),
    _limit("max_exchanges", 1_000_000, "Most forwarded requests under way at once; 0: no limit.", minimum=0),
    _limit("max_per_key", 1_000_000, "Most of them with one client key; 0: no limit.", minimum=0),
    _limit("queue_size", 1_000_000, "Most requests that wait until there is a place for them.", minimum=0),
    _limit("long_bytes", 1024 * _GIB, "Bodies from this size on have at most half of the places."),
    _limit("requests_per_minute", 1_000_000_000, "Most requests a minute with one client key; 0: no limit.", minimum=0),
    _limit("tokens_per_minute", 1_000_000_000_000, "Most tokens a minute for one client key; 0: no limit.", minimum=0),
)
TIMEOUTS: tuple[Option[float], ...] = (
    _timeout("head_s", "For a complete request head."),
    _timeout("keepalive_idle_s", "For the next request on an idle client connection."),
    _timeout("body_s", "For the next bytes of a request body."),
    _timeout("write_stall_s", "For a client that stopped reading."),
    _timeout("queue_wait_s", "For a place among the requests that may be under way at once."),
    _timeout("pool_wait_s", "For a free connection to the upstream."),
    _timeout("connect_s", "For the TCP connection to the upstream."),
    _timeout("tls_s", "For the TLS handshake with the upstream."),
    _timeout("upload_s", "For the upstream to take more of the request body."),
    _timeout("first_byte_stream_s", "For the first byte of a streamed answer."),
    _timeout("first_byte_plain_s", "For the first byte of a plain answer."),
    _timeout("first_byte_per_100k_tokens_s", "More for the first byte, for every 100,000 estimated prompt tokens."),
    _timeout("first_byte_max_s", "Most for the first byte of a streamed answer, however long the prompt."),
    _timeout("stream_idle_s", "For the next bytes of an answer that has begun."),
    _timeout_or_zero("total_s", "For a request and its whole answer; 0: no limit."),
    _timeout_or_zero("keepalive_after_s", "For a stream to begin, before a comment keeps it alive; 0: none is sent."),
    _timeout_or_zero("peek_s", "For the first event of a stream, which may be an error; 0: it is not waited for."),
    _timeout_or_zero("drain_delay_s", "New requests are still served for so long after the signal to stop; may be 0."),
    _timeout_or_zero("drain_s", "For requests under way when the server stops; may be 0."),
)
OPTIONS = (*BASIC, *LIMITS, *TIMEOUTS)
