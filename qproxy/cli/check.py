"""`qproxy check`: will it work, and if not, where does it break?"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson
from rich import box
from rich.table import Table
from rich.text import Text

from qproxy import __version__, app
from qproxy.cli.compare import compare
from qproxy.cli.console import print_line, print_rich
from qproxy.cli.options import load_settings, setting_options
from qproxy.cli.probe import Finding, probe
from qproxy.core.models import NO_UPSTREAM
from qproxy.core.oauth import FREE_TIER_ENDED
from qproxy.errors import AccountError

if TYPE_CHECKING:
    from qproxy.config import Settings

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@dataclass(frozen=True, slots=True)
class Report:
    """Findings by upstream; "" stands for what belongs to none."""

    findings: dict[str, list[Finding]]

    @property
    def is_good(self) -> bool:
        return all(finding.state != "failed" for found in self.findings.values() for finding in found)


@click.command()
@setting_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--chat",
    "prompt_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also send the prompt in FILE, straight and through the proxy, and compare.",
    metavar="FILE",
)
def check(as_json: bool, prompt_file: Path | None, **flags: object) -> int:
    """Check every configured upstream: name, connection, TLS, key, clock, login.

    Exit status 0 if everything works, else 1.
    """
    settings = load_settings(flags)
    prompt = _prompt(prompt_file) if prompt_file is not None else None
    report = app.run(_report, settings, prompt, backend=settings.backend)
    if as_json:
        print_line(_as_json(report))
    else:
        print_rich(*(_table(name, settings, findings) for name, findings in report.findings.items() if findings))
        print_line("Everything works." if report.is_good else "Something does not work: see what failed above.")
    return 0 if report.is_good else 1


def _prompt(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise click.BadParameter(f"{path.name} must be a readable file in UTF-8", param_hint="--chat") from exc


async def _report(settings: Settings, prompt: str | None) -> Report:
    findings = {"": [Finding("settings", "warning", notice) for notice in settings.notices]}
    if settings.default_upstream is None:
        findings[""] += [Finding("upstream", "failed", NO_UPSTREAM), Finding("upstream", "warning", FREE_TIER_ENDED)]
    for name, source in app.credentials_of(settings).items():
        findings[name] = await probe(settings, settings.upstreams[name].upstream, source)
    if prompt is not None and settings.default_upstream is not None:
        with contextlib.suppress(AccountError):  # the probe has told it
            findings[settings.default_upstream] += await compare(settings, settings.default_upstream, prompt)
    return Report(findings)


def _table(name: str, settings: Settings, findings: list[Finding]) -> Table:
    base = settings.upstreams[name].upstream.base if name else None
    title = f"{name} {base or ''}".rstrip() or "settings"
    table = Table("check", "state", "ms", "detail", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for finding in findings:
        ms = "" if finding.ms is None else f"{finding.ms:.1f}"
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(finding.check, state, ms, Text(finding.detail, overflow="fold"))
    return table


def _as_json(report: Report) -> str:
    document = {
        "ok": report.is_good,
        "version": __version__,
        "checks": [
            {"upstream": name or None, **asdict(finding)}
            for name, findings in report.findings.items()
            for finding in findings
        ],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
