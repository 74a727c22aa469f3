"""The settings of the Qwen login: where its files are, where its server is, and who we are there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qproxy.config import login_options as rows
from qproxy.config.keys import follow, referenced
from qproxy.config.values import ConfigError, Secret
from qproxy.core.login_files import file_name
from qproxy.core.oauth import DEFAULT_ACCOUNT, parse_token_file

if TYPE_CHECKING:
    from qproxy.config.option import Option
    from qproxy.config.sources import Sources

HOME_VARIABLE = "USERPROFILE" if os.name == "nt" else "HOME"
OTHER_ACCOUNTS = file_name("*")
DEVICE_CODE_PATH = "/api/v1/oauth2/device/code"
TOKEN_PATH = "/api/v1/oauth2/token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """Everything about logins, resolved.

    `home` is the folder of the accounts' files, `creds_file` that of the default account, which may lie elsewhere. The
    URLs are whole. `creds` is the JSON of a login that was given in a setting; it takes the default account's place and
    lives in memory, or in the file `cache`. None: there is none. `client_secret` may be empty.
    """

    home: Path
    creds_file: Path
    base_url: str
    device_code_endpoint: str
    token_endpoint: str
    client_id: str
    client_secret: Secret
    scope: str
    allowed_hosts: tuple[str, ...]
    creds: Secret | None
    cache: Path | None
    refresh_buffer_ms: int

    def exists(self) -> bool:
        """Whether any account is logged in here, with a usable token or not."""
        return self.creds is not None or self.creds_file.is_file() or any(self.home.glob(OTHER_ACCOUNTS))

    def notices(self) -> list[str]:
        """What people should know at the start."""
        if self.creds is None:
            return [] if self.cache is None else ["oauth_cache has no effect without oauth_creds."]
        if self.cache is None:
            kept = "in memory only: a renewed token is lost with the process; oauth_cache names a file that keeps it"
        else:
            kept = f"in {self.cache}"
        return [f"The login of the default account comes from oauth_creds, and is kept {kept}."]


def read_login(sources: Sources) -> LoginSettings:
    """Raises ConfigError."""
    home = path_of(sources, rows.QWEN_HOME) or _user_home(sources) / ".qwen"
    base_url = sources.get(rows.OAUTH_BASE_URL)
    allowed_hosts = sources.get(rows.OAUTH_ALLOWED_HOSTS)
    return LoginSettings(
        home=home,
        creds_file=path_of(sources, rows.OAUTH_CREDS_FILE) or home / file_name(DEFAULT_ACCOUNT),
        base_url=base_url,
        device_code_endpoint=sources.get(rows.OAUTH_DEVICE_CODE_ENDPOINT) or base_url + DEVICE_CODE_PATH,
        token_endpoint=sources.get(rows.OAUTH_TOKEN_ENDPOINT) or base_url + TOKEN_PATH,
        client_id=sources.get(rows.OAUTH_CLIENT_ID),
        client_secret=_client_secret(sources),
        scope=sources.get(rows.OAUTH_SCOPE),
        allowed_hosts=allowed_hosts,
        creds=_creds(sources, allowed_hosts),
        cache=path_of(sources, rows.OAUTH_CACHE),
        refresh_buffer_ms=sources.get(rows.REFRESH_BUFFER_MS),
    )


def _client_secret(sources: Sources) -> Secret:
    given = sources.find(rows.OAUTH_CLIENT_SECRET)
    if given is None:
        return rows.OAUTH_CLIENT_SECRET.default
    return follow(given.parse(rows.OAUTH_CLIENT_SECRET), given.label, given.folder, sources.variables())


def _creds(sources: Sources, allowed_hosts: tuple[str, ...]) -> Secret | None:
    given = sources.find(rows.OAUTH_CREDS)
    if given is None:
        return None
    if sources.find(rows.OAUTH_CREDS_FILE) is not None:
        raise ConfigError(
            f"{given.label} = (hidden): must not stand beside oauth_creds_file: each is the default login"
        )
    text = referenced(given.parse(rows.OAUTH_CREDS), given.label, given.folder, sources.variables())
    try:
        parse_token_file(text.encode(), allowed_hosts)
    except ValueError as exc:
        raise ConfigError(f"{given.label} = (hidden): must be a login in JSON, but {exc}") from exc
    return Secret(text)


def _user_home(sources: Sources) -> Path:
    return Path(sources.environ.get(HOME_VARIABLE) or sources.cwd)


def path_of(sources: Sources, option: Option[str]) -> Path | None:
    """A path as people write it: `~/` is their home, a relative one starts where it was written."""
    given = sources.find(option)
    if given is None:
        return None
    value = given.parse(option)
    return _user_home(sources) / value[2:] if value.startswith("~/") else given.folder / value
