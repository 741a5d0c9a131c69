"""What a container's process and its cgroup used, by either version of cgroups; and dropping the page cache.

Two views, since neither is the whole: the process's peak (VmHWM) counts its own pages and the files it maps, whoever
read them first; the cgroup's peak counts all that was charged to it, page cache as well, but of a file only those pages
that nobody else had in the cache before. After `drop_page_cache` all of them are charged to the container.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes, of 10**6 bytes. source: the file of the cgroup's peak. anonymous, mapped and cached: at the end."""

    process_peak_mb: float
    cgroup_peak_mb: float
    anonymous_mb: float
    mapped_mb: float
    cached_mb: float
    source: str

    def as_json(self) -> dict[str, float | str]:
        """Return all of it."""
        return asdict(self)


def read_memory(pid: int) -> Memory:
    """Read a container's figures by the process id of its first process. Raises OSError once it is gone."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)
    if found is None:
        raise ProcessLookupError(f"process {pid} has ended")
    folder = cgroup_folder(Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"), "memory")
    source = next(name for name in ("memory.peak", "memory.max_usage_in_bytes") if (folder / name).exists())
    parts = _numbers((folder / "memory.stat").read_text(encoding="utf-8"))
    return Memory(
        process_peak_mb=_megabytes(int(found.group(1)) * 1024),
        cgroup_peak_mb=_megabytes(int((folder / source).read_text(encoding="utf-8"))),
        anonymous_mb=_megabytes(_first(parts, "anon", "total_rss")),
        mapped_mb=_megabytes(_first(parts, "file_mapped", "total_mapped_file")),
        cached_mb=_megabytes(_first(parts, "file", "total_cache")),
        source=source,
    )


def read_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a container so far, that of setting it up included."""
    groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    folder = cgroup_folder(groups, "cpuacct")
    if (folder / "cpuacct.usage").exists():
        return int((folder / "cpuacct.usage").read_text(encoding="utf-8")) / 1e9
    return _numbers((folder / "cpu.stat").read_text(encoding="utf-8"))["usage_usec"] / 1e6


def cgroup_folder(groups: str, controller: str, root: Path = _CGROUPS) -> Path:
    """Return the folder of a process's controller: version 1 where it is mounted, else version 2's only one.

    groups: the content of /proc/PID/cgroup.
    """
    unified = root
    for line in groups.splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return root / names / path.lstrip("/")
        if not names:
            unified = root / path.lstrip("/")
    return unified


def drop_page_cache() -> bool:
    """Empty this machine's page cache; return whether that was allowed."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    except OSError:
        return False
    return True


def _numbers(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def _first(numbers: Mapping[str, int], *names: str) -> int:
    return next(numbers[name] for name in names if name in numbers)


def _megabytes(count: int) -> float:
    return round(count / 1e6, 1)
