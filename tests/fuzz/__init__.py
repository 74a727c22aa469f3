"""Harnesses: each takes any bytes and checks what must hold for all. `python -m tests.fuzz` runs one of them."""
