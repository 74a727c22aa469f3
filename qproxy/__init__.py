"""qproxy: a low-level reverse proxy between any OpenAI client and a Qwen model."""

__version__ = "0.1.0"
