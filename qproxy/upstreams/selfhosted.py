"""Servers that run open Qwen weights on a machine of one's own, at the ports they choose by default."""

from __future__ import annotations

from qproxy.upstreams.preset import Kind, Preset


def _server(name: str, port: int, hint: str) -> Preset:
    return Preset(name=name, kind="selfhosted", base_url=f"http://127.0.0.1:{port}/v1", hint=hint)


PRESETS = (
    _server("vllm", 8000, "Tool calls need --enable-auto-tool-choice and --tool-call-parser on the server's side."),
    _server("sglang", 30000, "Reasoning and tool calls need --reasoning-parser and --tool-call-parser on the server."),
    _server("ollama", 11434, "A prompt longer than num_ctx is cut without an error: set it in the Modelfile."),
    _server("llamacpp", 8080, "Newer builds of llama-server listen on 9931: give the URL then. Tools need --jinja."),
)
KIND = Kind("selfhosted", PRESETS)
