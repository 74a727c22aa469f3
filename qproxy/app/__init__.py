"""The composition root: the only package that knows every other.

`assembly` puts a proxy together from Settings, `life` runs it until it is told to stop. `clients` and `logins` make the
parts that commands use without a proxy.
"""

from __future__ import annotations

from qproxy.app.assembly import App
from qproxy.app.clients import USER_AGENT, direct_client, login_server
from qproxy.app.life import Running, running, serve
from qproxy.app.logins import credentials_of
from qproxy.edge.runtime import run

__all__ = [
    "USER_AGENT",
    "App",
    "Running",
    "credentials_of",
    "direct_client",
    "login_server",
    "run",
    "running",
    "serve",
]
