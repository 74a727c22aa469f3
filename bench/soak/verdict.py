"""What a soak is judged by, and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.table import Table

from bench.soak.books import Guilt
from bench.soak.storm import RECOVERY_REQUESTS, Plan, Soaked
from bench.soak.subject import LEAVES_WITHIN_S

MB = 1e6
SPARE_DESCRIPTORS = 2
GROWTH_MB = 4.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be right."""

    name: str
    got: str
    bound: str
    ok: bool


def checks(soaked: Soaked) -> list[Check]:
    """All of them, in the order of their weight."""
    guilty = soaked.books.guilty
    final, baseline, farewell = soaked.final, soaked.baseline, soaked.farewell
    growth_mb = (soaked.rests[-1].used_bytes - soaked.rests[-2].used_bytes) / MB
    most_descriptors = baseline.descriptors + SPARE_DESCRIPTORS
    is_prompt = farewell.exit_status == 0 and farewell.seconds < LEAVES_WITHIN_S
    return [
        *(Check(guilt.value, str(guilty[guilt]), "0", not guilty[guilt]) for guilt in Guilt),
        Check("hung: client connections left", str(final.down), "0", not final.down),
        Check("upstream connections left", str(final.up), "0", not final.up),
        Check("requests at an upstream left", str(soaked.books.attempts_open), "0", not soaked.books.attempts_open),
        Check(
            "descriptors left", str(final.descriptors), f"<= {most_descriptors}", final.descriptors <= most_descriptors
        ),
        Check("memory grown in the last third, MB", f"{growth_mb:.1f}", f"<= {GROWTH_MB:.1f}", growth_mb <= GROWTH_MB),
        Check(
            f"good answers to {RECOVERY_REQUESTS} requests afterwards", str(soaked.recovered), str(RECOVERY_REQUESTS),
            soaked.recovered == RECOVERY_REQUESTS,
        ),
        Check("defects in its log", str(len(farewell.defects)), "0", not farewell.defects),
        Check("left when asked", f"status {farewell.exit_status}, {farewell.seconds:.1f} s", "status 0", is_prompt),
    ]  # fmt: skip


def summary(plan: Plan, soaked: Soaked) -> list[str]:
    """Lines above the table."""
    books = soaked.books
    faults = sum(count for name, count in books.faults.items() if name != "none")
    return [
        f"soak: {plan.seconds / 60:.1f} min of storm on {plan.backend}, seed {plan.seed}",
        f"requests {books.requests:,} ({_counted(books.kinds)})",
        f"their ends: {_counted(books.ends)}",
        f"codes: {_counted(books.codes)}",
        f"faults {faults:,} at {sum(books.faults.values()):,} attempts ({_counted(books.faults, without='none')})",
        f"kept connections closed {soaked.idle_closed}, upstreams restarted {soaked.restarts}",
        f"hostile clients {soaked.hostile.total():,} ({_counted(soaked.hostile)})",
        f"answering again after {soaked.recovery_s:.1f} s; loop stalls logged: {soaked.farewell.stalls}",
    ]


def _counted(counts: dict[str, int], without: str = "") -> str:
    rows = sorted(counts.items(), key=lambda row: -row[1])
    return ", ".join(f"{name} {count:,}" for name, count in rows if name != without) or "none"


def memory_table(soaked: Soaked) -> Table:
    """By thirds."""
    table = Table(title="by thirds")
    looks = [soaked.baseline, *soaked.rests, soaked.final]
    for name in ("", "before", "first", "second", "third", "at the end"):
        table.add_column(name, justify="right")
    under_load = ["", *(f"{each:.1f}" for each in soaked.resident_mb), ""]
    table.add_row("resident MB under load (median)", *under_load)
    table.add_row("resident MB at rest", *(f"{look.resident_bytes / MB:.1f}" for look in looks))
    table.add_row("of it in use", *(f"{look.used_bytes / MB:.1f}" for look in looks))
    table.add_row("descriptors at rest", *(str(look.descriptors) for look in looks))
    table.add_row("client connections at rest", *(str(look.down) for look in looks))
    table.add_row("upstream connections at rest", *(str(look.up) for look in looks))
    return table


def checks_table(soaked: Soaked) -> Table:
    """The verdict."""
    table = Table(title="verdict")
    for name in ("", "got", "must", "ok"):
        table.add_column(name)
    for check in checks(soaked):
        table.add_row(check.name, check.got, check.bound, "ok" if check.ok else "NO")
    return table


def evidence(soaked: Soaked) -> list[str]:
    """What is known of whatever went wrong: the request ids stand in the access log."""
    return [*soaked.books.samples, *(f"log: {line}" for line in soaked.farewell.defects[:20])]


def as_json(plan: Plan, soaked: Soaked) -> dict[str, object]:
    """Everything, for a file."""
    books = soaked.books
    return {
        "storm_s": plan.seconds, "elapsed_s": soaked.seconds, "seed": plan.seed, "backend": plan.backend,
        "requests": books.requests, "kinds": books.kinds, "ends": books.ends, "codes": books.codes,
        "faults": books.faults, "hostile": soaked.hostile, "restarts": soaked.restarts,
        "idle_closed": soaked.idle_closed, "resident_mb_under_load": soaked.resident_mb,
        "looks": [asdict(look) for look in (soaked.baseline, *soaked.rests, soaked.final)],
        "recovered": soaked.recovered, "recovery_s": soaked.recovery_s, "farewell": asdict(soaked.farewell),
        "checks": [asdict(check) for check in checks(soaked)], "evidence": evidence(soaked),
    }  # fmt: skip
