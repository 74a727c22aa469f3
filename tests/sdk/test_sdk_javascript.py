"""The official JavaScript SDK: one Node process for each loop makes every call, the tests below judge what it saw.

The SDK is installed once, from the lock file in `tests/js`, into the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import platformdirs
import pytest

from qproxy.simulator import Options
from qproxy.simulator.embeddings import embed
from qproxy.simulator.text import arguments_for, reasoning, tokens
from tests.support.sdk_stage import CLIENT_KEY, Stage

PROJECT = Path(__file__).parent.parent / "js"
MANIFESTS = ("package.json", "package-lock.json")
INSTALL_S = 50
RUN_S = 30
ANSWER = "".join(tokens(16))
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


def unavailable(reason: str) -> NoReturn:
    """Skips, loudly; where nobody reads the skips, it fails."""
    message = f"THE JAVASCRIPT SDK IS NOT TESTED: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def sdk_root() -> Path:
    """The folder whose `node_modules` hold the SDK of the lock file."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        unavailable("node and npm must be installed")
    digest = hashlib.sha256(b"".join((PROJECT / name).read_bytes() for name in MANIFESTS)).hexdigest()[:16]
    root = platformdirs.user_cache_path("qproxy-tests") / f"js-{digest}"
    if not root.is_dir():
        install(npm, root)
    return root


def install(npm: str, root: Path) -> None:
    """Puts the folder in its place whole or not at all; whoever comes second keeps what the first one made."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        for manifest in MANIFESTS:
            shutil.copy(PROJECT / manifest, made)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        if done.returncode:
            unavailable(f"npm ci failed: {done.stderr.strip()[-400:]}")
        if not root.is_dir():
            made.rename(root)


@pytest.fixture(scope="module")
def results(stage: Stage, sdk_root: Path) -> dict[str, Any]:
    """What each case gave: `value`, or a thrown `error`."""
    environ = {"BASE_URL": stage.base_url, "API_KEY": CLIENT_KEY, "SDK_ROOT": str(sdk_root), "PATH": os.environ["PATH"]}
    command = ["node", str(PROJECT / "openai_sdk.mjs")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    given: dict[str, Any] = json.loads(done.stdout)
    return given


def value_of(results: dict[str, Any], case: str) -> Any:
    assert "error" not in results[case], results[case]
    return results[case]["value"]


def contents(deltas: list[dict[str, Any]], field: str = "content") -> list[str]:
    return [delta[field] for delta in deltas if delta.get(field)]


def test_chat_plain_and_streamed(results: dict[str, Any]) -> None:
    choice = value_of(results, "chat")["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER, "stop")
    streamed = value_of(results, "stream")
    assert "error" not in streamed
    assert contents(streamed["deltas"]) == tokens(16)


@pytest.mark.parametrize("case", ["tool", "tool_stream"])
def test_tools_plain_and_streamed(results: dict[str, Any], case: str) -> None:
    choice = value_of(results, case)["choices"][0]
    called = choice["message"]["tool_calls"][0]["function"]
    assert (choice["finish_reason"], called["name"]) == ("tool_calls", "get_weather")
    assert called["arguments"] == arguments_for(SCHEMA)


def test_reasoning(results: dict[str, Any]) -> None:
    deltas = value_of(results, "reasoning")["deltas"]
    assert contents(deltas, "reasoning_content") == reasoning(4)
    assert contents(deltas) == tokens(16)


def test_a_raw_response(results: dict[str, Any]) -> None:
    raw = value_of(results, "raw")
    assert raw["headers"]["x-request-id"] == raw["request_id"]
    assert raw["id"] == f"chatcmpl-{raw['request_id']}"
    assert "set-cookie" not in raw["headers"]


def test_a_stream_that_its_reader_leaves_early(results: dict[str, Any], stage: Stage) -> None:
    assert value_of(results, "left_early") == "sim-stall"
    stage.until(lambda counters: counters.aborted == 1)


def test_embeddings(results: dict[str, Any]) -> None:
    rows = value_of(results, "embeddings")["data"]
    assert rows[1]["embedding"] == pytest.approx(embed("通义", 64), abs=1e-6)


def test_completions_and_responses(results: dict[str, Any]) -> None:
    assert value_of(results, "completion")["choices"][0]["text"] == ANSWER
    kinds = value_of(results, "response_stream")
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_models(results: dict[str, Any]) -> None:
    assert value_of(results, "models") == list(Options().models)
    assert value_of(results, "model")["id"] == "qwen3-coder-plus"


def test_files(results: dict[str, Any]) -> None:
    assert value_of(results, "file") == {"bytes": 100_000, "same": True}


@pytest.mark.parametrize(
    ("case", "kind", "status", "code"),
    [
        ("wrong_key", "AuthenticationError", 401, "invalid_api_key"),
        ("no_model", "NotFoundError", 404, "model_not_found"),
        ("error_400", "BadRequestError", 400, "invalid_parameter_error"),
        ("error_404", "NotFoundError", 404, "model_not_found"),
        ("error_429", "RateLimitError", 429, "insufficient_quota"),
        ("error_500", "InternalServerError", 500, "internal_error"),
        ("error_502", "InternalServerError", 502, "upstream_closed"),
    ],
)
def test_error_classes(results: dict[str, Any], case: str, kind: str, status: int, code: str) -> None:
    error = results[case]["error"]
    assert (error["name"], error["status"], error["code"]) == (kind, status, code)


@pytest.mark.parametrize(
    ("case", "arrived", "message"),
    [
        ("cut", 3, "broke off"),
        ("reset", 3, "broke off"),
        ("truncate", 17, "before the answer was complete"),
        ("cut_in_event", 3, ""),
    ],
)
def test_a_broken_stream_never_looks_complete(results: dict[str, Any], case: str, arrived: int, message: str) -> None:
    streamed = value_of(results, case)
    assert [delta["content"] for delta in streamed["deltas"]] == ["", *tokens(16)][:arrived]
    assert message in streamed["error"]["message"]
    assert (not message) or "APIError" in streamed["error"]["classes"]


def test_a_broken_plain_answer_is_none(results: dict[str, Any]) -> None:
    assert "value" not in results["broken_plain"]
