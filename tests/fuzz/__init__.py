"""Harnesses: each takes any bytes and checks what must hold for all of them. `python -m tests.fuzz` runs one for long."""
