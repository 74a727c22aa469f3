"""Every settings file in the documentation is one that a start accepts."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from qproxy.cli.serve import serve
from qproxy.config import Settings, load
from qproxy.core.exchange import ExchangeRecord, Phase
from qproxy.core.models import ModelRouter
from qproxy.core.usage import Usage
from qproxy.edge.log import access_line
from tests.docs.pages import ROOT, Block, all_blocks, blocks

if TYPE_CHECKING:
    from pathlib import Path

HOW_TO = ROOT / "docs" / "how-to"
SERVICE = HOW_TO / "run-as-a-service.md"
DOTENV = [block for block in all_blocks("ini") if "[Unit]" not in block.text and "OPENAI_MODEL" not in block.text]


def load_text(text: str, name: str, folder: Path, *variables: str) -> Settings:
    """The settings of a start in a folder that has this file, with the key files and variables that it speaks of, and
    with further variables."""
    text = re.sub(r"file:/?", f"file:{folder}/", text)
    for path in re.findall(rf"file:{folder}/([\w./-]+)", text):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("made-up-key\n", encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")
    environ = dict.fromkeys([*re.findall(r"env:(\w+)", text), *variables], "made-up-key")
    return load({}, environ, folder, folder)


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_qproxy_toml(block: Block, tmp_path: Path) -> None:
    assert load_text(block.text, "qproxy.toml", tmp_path, "DASHSCOPE_API_KEY").default_upstream


@pytest.mark.parametrize("block", DOTENV, ids=str)
def test_dotenv(block: Block, tmp_path: Path) -> None:
    assert load_text(block.text, ".env", tmp_path).default_upstream == "dashscope"


@pytest.mark.parametrize(
    ("model", "upstream", "name"),
    [
        ("fast", "local", "qwen3-8b"),
        ("gpt-4o", "cloud", "qwen3-max"),
        ("local/qwen3-32b", "local", "qwen3-32b"),
        ("team/coder", "team", "qwen/coder"),
        ("local:qwen3-32b", "local", "qwen3-32b"),
        ("qwen3:8b", "cloud", "qwen3:8b"),
    ],
)
def test_the_rules_for_models_lead_where_the_page_says(model: str, upstream: str, name: str, tmp_path: Path) -> None:
    settings = load_text(blocks(HOW_TO / "several-upstreams.md", "toml")[0].text, "qproxy.toml", tmp_path)
    router = ModelRouter(settings.models, tuple(settings.upstreams), settings.default_upstream)
    choice = router.resolve(model)
    assert (choice.upstream, choice.model) == (upstream, name)


def test_a_rule_may_name_a_preset_without_a_table(tmp_path: Path) -> None:
    rule = '"plan/*" = "token-plan:*"'
    assert rule in (HOW_TO / "several-upstreams.md").read_text(encoding="utf-8")
    settings = load_text(f"[models]\n{rule}\n", "qproxy.toml", tmp_path, "BAILIAN_TOKEN_PLAN_API_KEY")
    assert "token-plan" in settings.upstreams


def unit() -> str:
    (block,) = blocks(SERVICE, "ini")
    return block.text


def test_the_unit_starts_qproxy_with_the_keys_of_its_settings_file() -> None:
    parsed = configparser.ConfigParser(strict=False)
    parsed.read_string(unit())
    program, command, *arguments = shlex.split(parsed["Service"]["ExecStart"])
    assert program.endswith("/qproxy")
    assert command == "serve"
    serve.make_context("serve", list(arguments))
    settings = blocks(SERVICE, "toml")[0]
    used = re.findall(r"file:/run/credentials/qproxy\.service/(\w+)", settings.text)
    assert used == re.findall(r"LoadCredential=(\w+):", unit())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "qproxy.service"
    path.write_text(unit().replace("/opt/qproxy/bin/qproxy", "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def shown_access_line() -> str:
    (text,) = [block.text for block in blocks(SERVICE, "text") if block.text.startswith("id=")]
    return text


def test_the_access_line_looks_as_the_page_shows_it() -> None:
    record = ExchangeRecord(
        request_id="qp-5f0c1d2e3a4b-1",
        method="POST",
        path="/v1/chat/completions",
        peer="127.0.0.1",
        endpoint="chat_completions",
        upstream="default",
        account="key-2",
        attempts=2,
        model="qwen3-coder-plus",
        status=200,
        error="",
        phase=Phase.RELAYING,
        cut_through=False,
        request_bytes=94,
        response_bytes=1873,
        usage=Usage(prompt_tokens=20, completion_tokens=312, total_tokens=332),
        started=1.0,
        received=1.0001,
        answered=1.2125,
        ended=2.84,
    )
    assert access_line(record) == shown_access_line()


def test_the_page_explains_every_field_of_the_access_line() -> None:
    line = shown_access_line()
    explained = SERVICE.read_text(encoding="utf-8").partition(line)[2]
    fields = set(re.findall(r"(\w+)=", line)) - {"peer", "status", "upstream", "model"}
    assert [field for field in sorted(fields) if f"`{field}" not in explained] == []
