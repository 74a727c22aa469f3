"""A keeper of tokens in a process of its own, which does what the lines of its stdin say.

    python -m tests.support.keeper_process LOGIN_FILE TOKEN_URL LOOP

`fresh` asks for a token, `refused` says that the API has refused the last one; the answer is a line with the token.
`race N` does `refused` N times in a row and answers with the last one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from qproxy.core.upstream import Credential
from qproxy.edge.login_store import FileStore
from qproxy.edge.runtime import run
from qproxy.edge.tokens import TokenKeeper
from tests.support.login_server import token_endpoint
from tests.support.login_stage import SETTINGS

PATIENT = replace(SETTINGS, wait_s=30.0)


async def obey(keeper: TokenKeeper) -> None:
    credential = await keeper.fresh()
    print(credential.secret, flush=True)
    while line := await anyio.to_thread.run_sync(sys.stdin.readline):
        credential = await answer(keeper, line.split(), credential)
        print(credential.secret, flush=True)


async def answer(keeper: TokenKeeper, words: list[str], credential: Credential) -> Credential:
    if words[0] == "fresh":
        return await keeper.fresh()
    for _ in range(int(words[1]) if words[0] == "race" else 1):
        credential = await keeper.refused(credential)
    return credential


async def main(path: Path, url: str) -> None:
    async with token_endpoint(url) as endpoint, anyio.create_task_group() as tasks:
        await obey(TokenKeeper("default", FileStore(path), endpoint, tasks, PATIENT))
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    run(main, Path(sys.argv[1]), sys.argv[2], backend=sys.argv[3])
