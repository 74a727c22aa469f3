"""nginx: the limit for a proxy that does none of the job."""

from __future__ import annotations

from bench.rivals.base import UPSTREAM_KEY, Command, Rival, Site
from bench.rivals.packages import DebianPackages

PACKAGES = DebianPackages("nginx", ("nginx",))

# Unbuffered in both directions, as a proxy for streams has to be, with reads as large as pay (16 KiB, the default, made
# 4 MB four times slower); the access log stays on, as it is by default.
CONFIGURATION = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 18000; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/tmp-body;
  proxy_temp_path {folder}/tmp-proxy;
  fastcgi_temp_path {folder}/tmp-fastcgi;
  uwsgi_temp_path {folder}/tmp-uwsgi;
  scgi_temp_path {folder}/tmp-scgi;
  client_max_body_size 64m;
  client_body_buffer_size 1m;
  keepalive_requests 100000000;
  keepalive_timeout 75s;
  upstream model {{
    server 127.0.0.1:{upstream_port};
    keepalive 1100;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {upstream_key}";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""


def command(site: Site) -> Command:
    """One worker in the foreground."""
    text = CONFIGURATION.format(
        folder=site.folder, port=site.port, upstream_port=site.upstream_port, upstream_key=UPSTREAM_KEY
    )
    configuration = site.write("nginx.conf", text)
    program = PACKAGES.find(site.prefix) or "nginx"
    argv = (program, "-p", str(site.folder), "-e", str(site.folder / "error.log"), "-c", str(configuration))
    return Command(argv, PACKAGES.environment(site.prefix))


RIVAL = Rival("nginx", "reverse proxy, C", PACKAGES, command)
