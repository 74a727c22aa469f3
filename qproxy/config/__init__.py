"""From flags, environment, `.env` and `qproxy.toml` to one frozen Settings object, or to one line of what is wrong.

`options` is the table of settings, `sources` decides which value wins, `settings.load` puts them together.
"""

from __future__ import annotations

from qproxy.config.settings import Settings, load
from qproxy.config.upstream_table import UpstreamSettings
from qproxy.config.values import ConfigError, Secret

__all__ = ["ConfigError", "Secret", "Settings", "UpstreamSettings", "load"]
