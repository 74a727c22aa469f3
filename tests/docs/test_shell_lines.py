"""Every shell line of the README, the tutorial and the how-to pages runs, and so do the programs in the README.

Lines that install are run by `.ci/run`. Lines that serve are started, asked and stopped with Ctrl-C. All others run
against a live proxy in front of the simulator.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

from qproxy import simulator
from tests.docs.pages import PAGES, README, ROOT, Block, blocks
from tests.docs.terminal import Terminal, interrupt
from tests.support.live import live_proxy, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

CI_RUN = ROOT / ".ci" / "run"
RUN_PAGES = [README, *(page for page in PAGES if page.parent.name in ("tutorial", "how-to"))]
BLOCKS = [block for page in RUN_PAGES for block in blocks(page, "sh")]
ENVIRONMENT = ("python3 -m venv .venv", ". .venv/bin/activate")  # .ci/run has its own place for it
NODE_MODULES = [
    Path(folder) for folder in (os.environ.get("NODE_PATH") or str(ROOT / "node_modules")).split(os.pathsep)
]


def installs(block: Block) -> bool:
    return any(line.startswith(("pip ", "pytest")) for line in block.text.splitlines())


def serves(block: Block) -> bool:
    last = block.text.splitlines()[-1]
    return last.startswith(("qproxy serve", "qproxy demo")) and "--once" not in last


INSTALLING = [block for block in BLOCKS if installs(block)]
SERVING = [block for block in BLOCKS if serves(block)]
OTHERS = [block for block in BLOCKS if block not in INSTALLING + SERVING]


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulator.running(simulator.Options(tokens=4))) as simulated,
    ):
        yield f"{simulated.url}/v1"


@pytest.fixture(scope="module")
def proxy(upstream: str) -> Iterator[str]:
    with live_proxy(settings_for(upstream)) as running:
        yield running.url.removeprefix("http://")


@pytest.fixture
def terminal(tmp_path: Path, proxy: str, upstream: str) -> Terminal:
    return Terminal.open(tmp_path, proxy, upstream)


def get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.parametrize("block", INSTALLING, ids=str)
def test_lines_that_install_are_those_of_ci(block: Block) -> None:
    known = CI_RUN.read_text(encoding="utf-8").splitlines()
    lines = [line for line in block.text.splitlines() if line not in ENVIRONMENT]
    assert [line for line in lines if line not in known and f"{line} | tee " not in "".join(known)] == []


def test_the_two_commands_stand_in_the_readme() -> None:
    assert [block.text for block in INSTALLING if block.page == README] == [
        "pip install .\nqproxy demo --once\n",
        "pip install '.[test]'\npytest\n",
    ]


@pytest.mark.parametrize("block", SERVING, ids=str)
def test_lines_that_serve(block: Block, terminal: Terminal) -> None:
    with terminal.serving(block.text) as (printed, process):
        found = re.search(r"http://[0-9.]+:([0-9]+)", printed)
        assert found is not None
        health = get(f"http://127.0.0.1:{found[1]}/health")
        assert isinstance(health, dict)
        assert health["status"] == "ok"
        if "demo" in block.text:
            assert get(f"http://127.0.0.1:{found[1]}/v1/models")
        assert interrupt(process) == (130 if "demo" in block.text else 0)


@pytest.mark.parametrize("block", OTHERS, ids=str)
def test_other_lines(block: Block, terminal: Terminal) -> None:
    if "curl" in block.text and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = block.text
    if all(line.startswith("export ") for line in script.splitlines()):
        script += "python -c 'import openai; print(openai.OpenAI().models.list().data)'"
    printed = terminal.run_script(script)
    assert printed
    if '"stream": true' in script:
        assert printed.endswith("data: [DONE]\n\n")
    if script.startswith("curl") and "/v1/" not in script:
        assert json.loads(printed)["error"]["code"] == "unknown_route"
    else:
        assert '"error"' not in printed


@pytest.mark.parametrize("block", blocks(README, "python"), ids=str)
def test_python_programs(block: Block, terminal: Terminal) -> None:
    assert "Hello" in terminal.run("python", "-c", terminal.here(block.text))


@pytest.mark.parametrize("block", blocks(README, "js"), ids=str)
def test_javascript_programs(block: Block, terminal: Terminal) -> None:
    folders = [folder for folder in NODE_MODULES if (folder / "openai" / "package.json").exists()]
    if shutil.which("node") is None or not folders:
        pytest.skip("needs node, and the package openai in a folder of NODE_PATH")
    (terminal.folder / "node_modules").symlink_to(folders[0])
    program = terminal.folder / "program.mjs"
    program.write_text(terminal.here(block.text), encoding="utf-8")
    assert "Hello" in terminal.run("node", str(program))


@pytest.mark.skipif(shutil.which("qwen") is None, reason="Qwen Code is not installed")
def test_qwen_code_with_the_variables_of_the_readme(terminal: Terminal) -> None:
    (variables,) = [block.text for block in blocks(README, "ini") if "OPENAI_MODEL" in block.text]
    (terminal.folder / ".qwen").mkdir()
    (terminal.folder / ".qwen" / ".env").write_text(terminal.here(variables), encoding="utf-8")
    assert "Hello" in terminal.run("qwen", "-p", "Hello")


def test_no_key_stands_on_a_command_line() -> None:
    given = [key for block in BLOCKS for key in re.findall(r"--(?:api|upstream)-key[ =](\S+)", block.text)]
    assert given
    assert all(key.startswith(("env:", "file:")) for key in given)
