"""qwen-proxy: the Node proxy with the same purpose as ours."""

from __future__ import annotations

import json
import time

from bench.rivals.base import CLIENT_KEY, UPSTREAM_KEY, Command, Rival, Site
from bench.rivals.packages import NodePackages

PACKAGES = NodePackages("qwen-proxy", "1.1.0")
DAY_MS = 86_400_000


def command(site: Site) -> Command:
    """With a login that is valid for a day and names the mock as its resource."""
    login = {
        "access_token": UPSTREAM_KEY,
        "refresh_token": "bench-refresh-token",
        "token_type": "Bearer",
        "resource_url": site.upstream_url,
        "expiry_date": int(time.time() * 1000) + DAY_MS,
    }
    site.write(".qwen/oauth_creds.json", json.dumps(login))
    program = PACKAGES.folder(site.prefix) / "dist/src/cli/qwen-proxy.js"
    env = {"HOST": "127.0.0.1", "PORT": str(site.port), "API_KEY": CLIENT_KEY, "STREAM": "true"}
    return Command(("node", str(program), "serve", "--headless"), env)


RIVAL = Rival("qwen-proxy", "Qwen proxy, Node", PACKAGES, command)
