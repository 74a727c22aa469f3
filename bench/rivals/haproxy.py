"""HAProxy: like nginx, a limit."""

from __future__ import annotations

from bench.rivals.base import UPSTREAM_KEY, Command, Rival, Site
from bench.rivals.packages import DebianPackages

PACKAGES = DebianPackages(
    "haproxy", ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"), version_flag="-v"
)

CONFIGURATION = """
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 75s
  option http-no-delay
  http-reuse always
frontend client
  bind 127.0.0.1:{port} backlog 4096
  default_backend model
backend model
  http-request set-header authorization "Bearer {upstream_key}"
  server mock 127.0.0.1:{upstream_port} pool-max-conn 1100
"""


def command(site: Site) -> Command:
    """One thread in the foreground."""
    text = CONFIGURATION.format(port=site.port, upstream_port=site.upstream_port, upstream_key=UPSTREAM_KEY)
    configuration = site.write("haproxy.cfg", text)
    program = PACKAGES.find(site.prefix) or "haproxy"
    return Command((program, "-db", "-f", str(configuration)), PACKAGES.environment(site.prefix))


RIVAL = Rival("haproxy", "reverse proxy, C", PACKAGES, command)
