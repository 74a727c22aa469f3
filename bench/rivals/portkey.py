"""Portkey's open gateway, on Node."""

from __future__ import annotations

from bench.rivals.base import AUTHORIZATION, Command, Rival, Site
from bench.rivals.packages import NodePackages

# With 1.14 and later of its HTTP server every stream ends in status 500 ("immutable" headers); its range allows both.
PACKAGES = NodePackages("@portkey-ai/gateway", "1.15.2", overrides=(("@hono/node-server", "1.13.8"),))


def command(site: Site) -> Command:
    """Without its console; the upstream comes with every request."""
    program = PACKAGES.folder(site.prefix) / "build/start-server.js"
    headers = (AUTHORIZATION, "x-portkey-provider: openai", f"x-portkey-custom-host: {site.upstream_url}")
    return Command(
        ("node", str(program), "--headless", f"--port={site.port}"), {"NODE_ENV": "production"}, headers=headers
    )


RIVAL = Rival("portkey", "gateway, Node", PACKAGES, command)
