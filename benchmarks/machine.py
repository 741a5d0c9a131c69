"""What a figure was measured on and with."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path


def circumstances(*packages: str) -> dict[str, object]:
    """Describe the machine, Python and the versions of some packages."""
    return {
        "machine": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def busy_cores(seconds: float = 1.0) -> float | None:
    """Return how many cores are busy while this process sleeps for so long; None where the system does not say."""
    before = _busy_seconds()
    if before is None:
        return None
    time.sleep(seconds)
    after = _busy_seconds()
    return None if after is None else round((after - before) / seconds, 2)


def _busy_seconds() -> float | None:
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _idle, _waiting, *rest = map(int, path.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    """Name the CPU and the instruction sets that matter here, where the system says."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in fields.items()}
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
    flags = [flag for flag in wanted if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.processor())} ({', '.join(flags)})"
