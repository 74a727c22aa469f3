"""The tables of the reference say what the code says. A failure shows the rows to add and to take away."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import click
import pytest

from bench.scenarios import SCENARIOS
from qproxy.cli import commands
from qproxy.config.option import AnyOption
from qproxy.config.options import BACKEND, BASIC, LIMITS, TIMEOUTS
from qproxy.config.upstream_table import HEADERS, TABLE_OPTIONS
from qproxy.config.values import Secret
from qproxy.core.headers import REQUEST_RULES, RESPONSE_RULES, Rule
from qproxy.core.oauth import TOKEN_HOSTS
from qproxy.core.windows import TABLE
from qproxy.endpoints import FORWARD_ENDPOINTS, LOCAL_ENDPOINTS
from qproxy.errors import CATALOGUE
from qproxy.upstreams import PRESETS
from tests.docs.pages import README, ROOT, same_rows, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qproxy.core.route import Endpoint

REFERENCE = ROOT / "docs" / "reference"
CONFIGURATION = REFERENCE / "configuration.md"
YES_OR_EMPTY = {True: "yes", False: ""}
YES_OR_NO = {True: "yes", False: "no"}
AGAIN = {True: "true", False: "false", None: ""}
BODIES = {"JSON": "JSON", "OPAQUE": "any", "NONE": "none"}
RULES = {Rule.DROP: "dropped", Rule.KEEP: "read", Rule.SINGLE: "read, once"}


def columns(rows: list[list[str]], count: int) -> list[list[str]]:
    """The first columns, which the code knows; the others explain them to people and must say something."""
    assert all(cell for row in rows for cell in row[count:])
    return [row[:count] for row in rows]


def shown_default(option: AnyOption) -> str:
    default = option.default
    if option is BACKEND:
        return "uvloop"  # where it is installed, as the page says
    if isinstance(default, bool):
        return str(default).lower()
    return "" if isinstance(default, Secret | tuple) else f"{default:g}" if isinstance(default, float) else str(default)


def test_settings() -> None:
    rows = [
        [
            option.name if option.in_file else "",
            f"--{option.flag}",
            option.variable,
            shown_default(option),
            option.type.allowed,
            option.help,
        ]
        for option in BASIC
    ]
    same_rows(table(CONFIGURATION, "key in the file", "Settings"), rows)


@pytest.mark.parametrize(("section", "options"), [("Limits", LIMITS), ("Timeouts", TIMEOUTS)])
def test_limits_and_timeouts(section: str, options: tuple[AnyOption, ...]) -> None:
    rows = [[option.name, option.variable, shown_default(option), option.help] for option in options]
    same_rows(table(CONFIGURATION, "key", section), rows)


def test_keys_of_an_upstream() -> None:
    page = columns(table(CONFIGURATION, "key", "Upstreams"), 2)
    shortened = {"preset": "the name of a preset", HEADERS: "a table of header names and texts"}
    rows = [[option.name, shortened.get(option.name, option.type.allowed)] for option in TABLE_OPTIONS]
    same_rows(page, [*rows, [HEADERS, shortened[HEADERS]]])


def test_windows() -> None:
    rows = [[name, *("" if tokens is None else str(tokens) for tokens in limits)] for name, limits in TABLE.items()]
    same_rows(table(CONFIGURATION, "model", "Windows"), rows)


def test_older_names() -> None:
    public = [[name, option.variable, "environment, .env"] for option in BASIC for name in option.legacy]
    private = [[name, option.variable, ".env, file"] for option in BASIC for name in option.private_legacy]
    same_rows(sorted(table(CONFIGURATION, "variable", "Older names")), sorted(public + private))


def commands_of(group: click.Group) -> dict[str, click.Command]:
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def every_command(group: click.Group = commands, prefix: str = "") -> dict[str, click.Command]:
    """Those that help lists, by all of their names: `serve`, `auth`, `auth login`."""
    found: dict[str, click.Command] = {}
    for name, command in commands_of(group).items():
        if not command.hidden:
            found[prefix + name] = command
            if isinstance(command, click.Group):
                found |= every_command(command, f"{prefix}{name} ")
    return found


def test_commands() -> None:
    page = columns(table(REFERENCE / "command-line.md", "command"), 1)
    same_rows(page, [[name] for name in every_command()])


def test_older_names_of_commands() -> None:
    page = table(REFERENCE / "command-line.md", "older name", "Older names")
    hidden = [name for name, command in commands_of(commands).items() if command.hidden]
    same_rows(page, [[name, name.replace(":", " ")] for name in hidden])


def test_flags_of_single_commands() -> None:
    shared = {option.name for option in BASIC}
    rows = [
        [name, flag]
        for name, command in every_command().items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and (name == "demo" or parameter.name not in shared)
        for flag in parameter.opts
    ]
    same_rows(columns(table(REFERENCE / "command-line.md", "command", "Flags of their own"), 2), rows)


def path_and_methods(row: Endpoint) -> list[str]:
    return [row.path.decode(), b", ".join(row.methods).decode()]


def test_forwarded_endpoints() -> None:
    rows = [[*path_and_methods(row), BODIES[row.body.name]] for row in FORWARD_ENDPOINTS]
    same_rows(table(REFERENCE / "endpoints.md", "path", "Forwarded"), rows)


def test_local_endpoints() -> None:
    rows = [
        [*path_and_methods(row), "admin" if row.needs_admin else YES_OR_NO[row.needs_key]] for row in LOCAL_ENDPOINTS
    ]
    same_rows(columns(table(REFERENCE / "endpoints.md", "path", "Answered here"), 3), rows)


def error_rows(codes: Iterable[str]) -> list[list[str]]:
    kinds = [(code, CATALOGUE[code]) for code in codes]
    return [
        [code, str(kind.status), kind.type, AGAIN[kind.should_retry], YES_OR_EMPTY[kind.closes]] for code, kind in kinds
    ]


@pytest.fixture
def used_codes() -> list[str]:
    """Those that some module names; the simulator has codes of its own."""
    modules = (ROOT / "qproxy").rglob("*.py")
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in modules
        if path.name != "errors.py" and path.parent.name != "simulator"
    )
    return [code for code in CATALOGUE if f'"{code}"' in source]


def test_errors(used_codes: list[str]) -> None:
    same_rows(columns(table(REFERENCE / "errors.md", "code"), 5), error_rows(used_codes))


def test_every_error_of_the_catalogue_is_sent(used_codes: list[str]) -> None:
    assert [code for code in CATALOGUE if code not in used_codes] == []


@pytest.mark.parametrize(("section", "rules"), [("Of requests", REQUEST_RULES), ("Of answers", RESPONSE_RULES)])
def test_headers(section: str, rules: dict[bytes, Rule]) -> None:
    page = columns(table(REFERENCE / "headers.md", "field", section), 2)
    same_rows(sorted(page), sorted([name.decode(), RULES[rule]] for name, rule in rules.items()))


def test_presets() -> None:
    rows = [
        [
            preset.name,
            preset.base_url,
            preset.key_variable,
            YES_OR_NO[preset.key_required],
            f"{preset.keepalive_s:g}",
            YES_OR_NO[preset.forward_user_agent],
            preset.default_model,
        ]
        for preset in PRESETS.values()
    ]
    same_rows(table(REFERENCE / "upstreams.md", "preset", "Presets"), rows)


def test_hints_of_presets() -> None:
    page = table(REFERENCE / "upstreams.md", "preset", "What people get wrong")
    rows = [[name, hint] for names, hint in page for name in names.split(", ")]
    same_rows(rows, [[preset.name, preset.hint] for preset in PRESETS.values()])


def test_built_in_models() -> None:
    rows = [
        [preset.name, ", ".join(preset.models), YES_OR_NO[not preset.has_model_list]]
        for preset in PRESETS.values()
        if preset.models
    ]
    same_rows(table(REFERENCE / "upstreams.md", "preset", "Built-in models"), rows)


def test_hosts_that_may_get_a_token() -> None:
    same_rows(table(REFERENCE / "upstreams.md", "host"), [[host] for host in TOKEN_HOSTS])


def test_presets_in_the_readme() -> None:
    rows = [[preset.name, preset.base_url or "from the login", preset.key_variable] for preset in PRESETS.values()]
    same_rows(table(README, "preset", "Upstreams"), rows)


def test_codes_in_the_readme_exist() -> None:
    symptoms = " ".join(row[0] + " " + row[1] for row in table(README, "symptom", "Troubleshooting"))
    assert set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", symptoms)) <= set(CATALOGUE)


def test_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tests = project["optional-dependencies"]["test"]
    for section, requirements in (("At run time", project["dependencies"]), ("For tests", tests)):
        page = columns(table(ROOT / "docs" / "explanation" / "dependencies.md", "package", section), 1)
        same_rows(page, [re.findall(r"^[\w-]+", requirement) for requirement in requirements])


def test_scenarios_of_the_bench() -> None:
    page = columns(table(ROOT / "docs" / "explanation" / "performance.md", "scenario"), 1)
    same_rows(page, [[name] for name in SCENARIOS])
