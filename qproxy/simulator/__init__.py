"""A Qwen upstream in a box: for the demo, the tests and the bench. Not for the network: it trusts everyone.

    async with running(Options(tokens=20, tokens_per_s=50)) as simulator:
        ...  # an OpenAI client at simulator.base_url; logins at simulator.url

or `python -m qproxy.simulator --port 9000 --tokens 200 --pace 50 --prefill 0.2`, which prints a line when it is ready.

It answers `/v1/...` and `/compatible-mode/v1/...` alike: chat/completions, completions, embeddings, rerank, responses,
models, files, batches, images/generations, audio/speech, audio/transcriptions; and the login paths
`/api/v1/oauth2/device/code`, `/api/v1/oauth2/token`, `/authorize?user_code=...` (opening that page approves the login).
Any model name is accepted. Bodies, headers and errors have the shapes of DashScope's compatible mode.

Faults are rows of a table. A request chooses one by its model, `sim-<name>`, or by the header `x-sim-scenario: <name>`;
a test by `simulator.fail_next(name)` or for one key by `simulator.account(key).answer_next(name)`:

- refusals: `400`, `400-context`, `400-max-tokens`, `400-thinking`, `400-arrearage`, `400-inspection`, `401`,
  `401-missing`, `401-expired`, `403-quota`, `403-free-tier`, `403-denied`, `403-retired`, `403-purchase`,
  `403-plan-key`, `404`, `404-model`, `404-unsupported`, `429-throttling`, `429-rate`, `429-burst`, `429-tokens`,
  `429-quota`, `429-free`, `429-hour`, `429-week`, `429-month`, `429-concurrency`, `429-usage`, `429-billing`,
  `429-retry-after`, `429-retry-after-ms`, `429-retry-after-date`, `500`, `500-timeout`, `500-html`, `502-text`, `503`,
  `503-retry-after`, `504`;
- the same errors in odd clothes: `400-flat` and `429-flat` (no `error` object), `400-sse` and `429-sse` (framed as an
  event), `400-nested` and `429-nested` (text inside `metadata.raw`), `error-200` (an error with status 200);
- no answer of the API: `html-waf`, `empty-200`, `redirect`;
- streams that fail in their body: `error-in-stream`, `error-twice`, `error-flat`, `error-first-event`,
  `error-first-flat`, `error-finish` (the error is content, `finish_reason` is `error_finish`);
- streams that end oddly but cleanly: `no-done` (a finish reason, no `[DONE]`), `truncate` (neither), `empty-stream`;
- streams that are unusual and right: `loose` (comments, CRLF, no space, surplus lines), `repeat` (every event twice),
  `early-head` (the head does not wait for the prefill);
- connections that break: `cut` (FIN after some events), `cut-in-event`, `cut-after-head`, `cut-before-head`,
  `cut-in-head`, `reset` (RST after some events), `reset-before-head`; plain answers are cut in the middle of the body;
- waits that end with `simulator.release()`: `slow-read` (of the request), `slow-head`, `stall` (after some events);
- answers before the request's body is read: `early-401`, `early-413`, `early-429`;
- for the login paths, by `fail_next(name, path="/oauth2/token")` alone: `oauth-pending`, `oauth-slow-down`,
  `oauth-slow-down-429`, `oauth-expired`, `oauth-denied`, `oauth-invalid-grant`, `oauth-401`, `oauth-429`,
  `oauth-error-200`, `oauth-garbage`. The others work there too: `cut-before-head` loses an answer after the refresh
  token was spent, `slow-head` holds it.

Headers that change one request: `x-sim-tokens`, `x-sim-reasoning-tokens`, `x-sim-pace` (tokens per second),
`x-sim-prefill` (seconds per megabyte), `x-sim-fault-after` (how many events come before the fault, 3).

A stream with a pace writes each event as one HTTP chunk when it is due; one without joins chunks into larger writes.
A client that leaves is noticed at once wherever the simulator waits, and counted: `await simulator.aborted()`.

Speed on one core of a 2-core AMD EPYC machine, CPython 3.11, uvloop: 14,000 small plain answers/s, 1,150,000 stream
events/s flat out, 98,000 events/s where each is a write of its own (`python -m qproxy.simulator.speed`).
"""

from qproxy.simulator.accounts import Account
from qproxy.simulator.control import Counters
from qproxy.simulator.oauth import Login
from qproxy.simulator.options import Options
from qproxy.simulator.request import Request
from qproxy.simulator.scenarios import SCENARIOS
from qproxy.simulator.server import Simulator, running

__all__ = ["SCENARIOS", "Account", "Counters", "Login", "Options", "Request", "Simulator", "running"]
