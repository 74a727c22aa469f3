"""Portkey's open gateway, on Node."""

from __future__ import annotations

from bench.rivals.base import AUTHORIZATION, Command, Rival, Site
from bench.rivals.packages import NodePackages

PACKAGES = NodePackages("@portkey-ai/gateway", "1.15.2")


def command(site: Site) -> Command:
    """Without its console; the upstream comes with every request."""
    program = PACKAGES.folder(site.prefix) / "build/start-server.js"
    headers = (AUTHORIZATION, "x-portkey-provider: openai", f"x-portkey-custom-host: {site.upstream_url}")
    return Command(
        ("node", str(program), "--headless", f"--port={site.port}"), {"NODE_ENV": "production"}, headers=headers
    )


RIVAL = Rival("portkey", "gateway, Node", PACKAGES, command)
