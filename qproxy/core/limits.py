"""Sizes and clocks of one proxy, with the precedent of each default (`faults.md` section 2 has the comparison)."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * 1024
BYTES_PER_TOKEN = 4  # of a request's body: English and code, with their JSON around them


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, counts in pieces."""

    head_bytes: int = 32 * KIB  # nginx: 4 x 8 KiB, node: 16 KiB, envoy: 60 KiB
    head_lines: int = 100  # nginx, HAProxy: 100 or 101
    target_bytes: int = 8 * KIB  # RFC 9112 3 recommends at least 8000
    body_bytes: int = 64 * MIB
    upload_bytes: int = 0  # of bodies that are passed on and neither read nor kept; 0: body_bytes
    inspect_bytes: int = 256 * KIB  # bodies up to here are checked whole before anything is sent
    replay_bytes: int = 64 * MIB  # longer ones are not kept while they go up, and sent once
    replay_total_bytes: int = 512 * MIB
    upstream_head_bytes: int = 64 * KIB
    upstream_head_lines: int = 200
    max_connections: int = 0  # 0: taken from the descriptor limit at start
    # Off at 0. Who shares a server knows how much each may have; a server for one has nothing to share out.
    max_per_address: int = 0
    max_exchanges: int = 0
    max_per_key: int = 0
    queue_size: int = 256
    long_bytes: int = 256 * KIB  # 64k tokens and more: half of the places are for shorter ones alone
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Each phase has its own clock and its own error code."""

    head_s: float = 10.0
    keepalive_idle_s: float = 75.0
    body_s: float = 30.0
    write_stall_s: float = 60.0
    queue_wait_s: float = 10.0
    pool_wait_s: float = 10.0
    connect_s: float = 5.0
    tls_s: float = 5.0
    upload_s: float = 60.0
    first_byte_stream_s: float = 60.0
    first_byte_plain_s: float = 300.0
    first_byte_per_100k_tokens_s: float = 60.0
    first_byte_max_s: float = 600.0
    stream_idle_s: float = 300.0
    total_s: float = 0.0  # 0: as long as the other clocks allow
    keepalive_after_s: float = 15.0  # 0: no comments; many gateways cut a silent answer after 30 or 60 s
    peek_s: float = 0.25
    drain_delay_s: float = 0.0
    drain_s: float = 30.0  # Kubernetes gives as much; systemd 90 s, Docker 10 s

    def first_byte_s(self, *, body_bytes: int, plain: bool) -> float:
        """Seconds to wait for the response head; grows with the prompt."""
        base = self.first_byte_plain_s if plain else self.first_byte_stream_s
        grown = base + self.first_byte_per_100k_tokens_s * body_bytes / (100_000 * BYTES_PER_TOKEN)
        return max(base, min(grown, self.first_byte_max_s))
