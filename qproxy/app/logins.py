"""Where credentials come from."""

from __future__ import annotations

import time

from qproxy.config import Settings
from qproxy.core.oauth import DEFAULT_ACCOUNT
from qproxy.edge.credentials import OAuthFile, StaticKey
from qproxy.edge.login_files import LoginFiles
from qproxy.edge.login_store import CacheStore, FileStore, LoginStore, MemoryStore


def login_store(settings: Settings, files: LoginFiles, account: str) -> LoginStore:
    """Where the account's login is kept."""
    login = settings.login
    if account != DEFAULT_ACCOUNT or login.creds is None:
        return FileStore(files.path(account))
    data = login.creds.reveal().encode()
    return MemoryStore(data) if login.cache is None else CacheStore(login.cache, data)


def credentials_of(settings: Settings) -> dict[str, OAuthFile | StaticKey]:
    """The first credential of each upstream, for commands that look at them or use them once."""
    login = OAuthFile(settings.login_file, settings.login.allowed_hosts, time.time)
    return {
        name: login if each.upstream.base is None else StaticKey(each.key.reveal() if each.key is not None else "")
        for name, each in settings.upstreams.items()
    }
