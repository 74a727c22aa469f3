"""Processes that the suite starts: pinned, in a group of their own, with CPU time and memory of the whole group."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.machine import pinned

if TYPE_CHECKING:
    from collections.abc import Mapping

KIB = 1024
STOP_S = 8.0
IDLE_LOOK_S = 0.05
IDLE_SHARE = 0.1


class StartError(Exception):
    """A process did not start or did not answer; the message is for the table."""


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, summed over the processes of a group."""

    resident_bytes: int
    peak_bytes: int


class Server:
    """One long-running process with its children. Everything it prints goes to `log`."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], folder: Path, cores: frozenset[int]) -> None:
        self.log = folder / "log.txt"
        with self.log.open("wb") as log, pinned(cores):
            try:
                self._process = subprocess.Popen(
                    argv,
                    env=dict(env),
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as exc:
                raise StartError(f"{argv[0]}: {exc.strerror}") from exc

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def pids(self) -> list[int]:
        """The processes of the group, oldest first."""
        group = self._process.pid
        return sorted(pid for pid in _all_pids() if _group_of(pid) == group)

    def cpu_s(self) -> float:
        """CPU time that the living processes of the group have used, in seconds, to the nanosecond."""
        return sum(_process_cpu_s(pid) for pid in self.pids())

    def wait_idle(self, limit_s: float) -> None:
        """Returns when the group has stopped working on what was left behind, or after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            before_s = self.cpu_s()
            time.sleep(IDLE_LOOK_S)
            if self.cpu_s() - before_s < IDLE_SHARE * IDLE_LOOK_S:
                return

    def memory(self) -> Memory:
        """Resident memory now, and its peak since the start or `reset_peak`."""
        fields = [_status(pid) for pid in self.pids()]
        return Memory(
            sum(status.get("VmRSS", 0) for status in fields) * KIB,
            sum(status.get("VmHWM", 0) for status in fields) * KIB,
        )

    def reset_peak(self) -> None:
        """Makes the peak start again at the memory in use now (proc(5), clear_refs 5)."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def pause(self) -> None:
        """Takes the group off the cores, so that it does not disturb what others measure."""
        self._signal(signal.SIGSTOP)

    def send_signal(self, number: signal.Signals) -> None:
        """To the process that was started, without its children."""
        self._process.send_signal(number)

    def resume(self) -> None:
        """Undoes `pause`."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Asks the group to end, and ends it where it does not."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        deadline = time.monotonic() + 1.0
        while self.pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def last_words(self) -> str:
        """The last lines of the log that say something."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])[-300:] or "it printed nothing"


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _group_of(pid: int) -> int:
    """-1 for what has ended, also where nobody has asked for its exit status yet (proc(5), stat)."""
    try:
        state, _parent, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return -1
    return -1 if state == "Z" else int(group)


def _process_cpu_s(pid: int) -> float:
    """The CPU clock of another process: the clock id is built from its pid (clock_getcpuclockid(3), Linux)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _status(pid: int) -> dict[str, int]:
    """The fields of /proc/PID/status that are in kilobytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: int(value.split()[0]) for name, _, value in pairs if value.endswith("kB")}
