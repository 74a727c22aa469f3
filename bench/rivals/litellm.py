"""LiteLLM's proxy server: the gateway that most Python users meet first."""

from __future__ import annotations

from bench.bodies import MODEL
from bench.rivals.base import CLIENT_KEY, UPSTREAM_KEY, Command, Rival, Site
from bench.rivals.packages import PythonPackages

PACKAGES = PythonPackages(("litellm[proxy]==1.106.2",))

CONFIGURATION = """
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {upstream_url}
      api_key: {upstream_key}
general_settings:
  master_key: {client_key}
"""


def command(site: Site) -> Command:
    """One worker, its price list from the package and not from the net."""
    text = CONFIGURATION.format(
        model=MODEL, upstream_url=site.upstream_url, upstream_key=UPSTREAM_KEY, client_key=CLIENT_KEY
    )
    configuration = site.write("litellm.yaml", text)
    argv = (
        str(site.prefix / ".venv/bin/litellm"), "--config", str(configuration), "--host", "127.0.0.1",
        "--port", str(site.port), "--num_workers", "1", "--telemetry", "False",
    )  # fmt: skip
    return Command(argv, {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}, ready_s=120)


RIVAL = Rival("litellm", "gateway, Python", PACKAGES, command)
