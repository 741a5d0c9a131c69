"""Cold starts of our image and its peers': from the program's start to INIT's end and to the first answer.

    python -m benchmarks.cold_start --image embakery:latest [--base-image IMAGE] [--runs 10] [--cold-disk]
                                    [--only NAME ...] [--out FILE]

Each start is a new container with Lambda's limits and user, a read-only file system, and a Runtime API of our own, with
POST /v1/embeddings of events/api-embeddings.json waiting (two texts). The systems take turns; the files are in the page
cache, and with --cold-disk three more rounds have it dropped before each start. A table, and results/cold_start.json.

The peers' images are built by Docker on the same base. torch's CPU build must be where pip finds it: a local folder in
PIP_FIND_LINKS, or an index in PIP_EXTRA_INDEX_URL; another build is never taken.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.containers import Size, docker
from benchmarks.containers_images import PEERS, build_peer, weigh
from benchmarks.containers_starts import Candidate, Series, ratios, series
from benchmarks.environments import ROOT
from benchmarks.machine import busy_cores, circumstances
from benchmarks.process import SystemFailedError

OURS = "embakery"
OUR_HANDLER = "handlers.api.handler"
EVENT = ROOT / "events" / "api-embeddings.json"
OUT = ROOT / "benchmarks" / "results" / "cold_start.json"
# One whole vCPU, and a small function: 512 / 1769 of one.
SIZES = (Size(1769, 1.0), Size(512, 0.29))
_COLD_DISK_ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, weigh, start, write, print the tables."""
    # So that this signal, too, unwinds the stack and removes the container.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    given = parse(arguments)
    candidates, systems, missing = _line_up(given)
    event = json.loads(EVENT.read_text(encoding="utf-8"))
    results: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "event": str(EVENT.relative_to(ROOT)),
        "runs": given.runs,
        "ours": OURS,
        "systems": systems,
        "failed": missing,
        "busy_cores_before": busy_cores(),
        "starts": list(_measure(candidates, event, given.runs, cold_disk=given.cold_disk)),
        **circumstances("numpy"),
        "docker": docker("version", "--format", "{{.Server.Version}}"),
        "kernel": os.uname().release,
    }
    given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(markdown(results))
    print(f"written to {given.out}", file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what was asked for."""
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cold_start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--image", default="embakery:latest", help="ours")
    parser.add_argument(
        "--base-image",
        default=os.environ.get("BASE_IMAGE", "python:3.11-slim-bookworm"),
        help="what the peers' images are built on; default: $BASE_IMAGE",
    )
    parser.add_argument("--runs", type=int, default=10, help="starts of each system at each size")
    parser.add_argument("--cold-disk", action="store_true", help="also with an empty page cache; asks for root")
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="NAME", help="only these peers")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    return parser.parse_args(arguments)


def _line_up(given: argparse.Namespace) -> tuple[list[Candidate], dict[str, Any], dict[str, str]]:
    """Return who starts, what each image is, and who cannot be had."""
    candidates = [Candidate(OURS, given.image, OUR_HANDLER)]
    systems: dict[str, Any] = {OURS: {"title": "Embakery", "choices": "as deployed, no cache", **weigh(given.image)}}
    missing: dict[str, str] = {}
    for peer in (each for each in PEERS if each.name in given.only):
        try:
            image = build_peer(peer, given.base_image)
            systems[peer.name] = {"title": peer.title, "choices": peer.choices, **weigh(image)}
        except SystemFailedError as error:
            missing[peer.name] = str(error)
        else:
            candidates.append(Candidate(peer.name, image, "function.handler"))
    return candidates, systems, missing


def _measure(candidates: Sequence[Candidate], event: object, runs: int, *, cold_disk: bool) -> Iterator[dict[str, Any]]:
    for size in SIZES:
        yield _entry(size, "warm", series(candidates, size=size, event=event, rounds=runs, cold_disk=False))
        if cold_disk:
            found = series(candidates, size=size, event=event, rounds=_COLD_DISK_ROUNDS, cold_disk=True)
            yield _entry(size, "dropped", found)


def _entry(size: Size, page_cache: str, found: Mapping[str, Series]) -> dict[str, Any]:
    return {
        "memory_mb": size.memory_mb,
        "cpus": size.cpus,
        "page_cache": page_cache,
        "systems": {name: each.as_json() for name, each in found.items()},
        "ratios": ratios(found, OURS),
        "cosine_to_ours": _cosines(found),
    }


def _cosines(found: Mapping[str, Series]) -> dict[str, float]:
    """Return the lowest cosine between our vectors and each other's: that all computed the same."""
    vectors = {name: _vectors(each.starts[0].answer) for name, each in found.items() if each.starts}
    mine = vectors.pop(OURS, None)
    return (
        {}
        if mine is None
        else {name: round(float((each * mine).sum(axis=1).min()), 4) for name, each in vectors.items()}
    )


def _vectors(answer: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Return an answer's vectors. Raises SystemFailedError for one that is an error."""
    if answer["statusCode"] != 200:
        raise SystemFailedError(f"answered {answer['statusCode']}: {answer['body'][:300]}")
    return np.array([item["embedding"] for item in json.loads(answer["body"])["data"]])


def markdown(results: Mapping[str, Any]) -> str:
    """Return the tables."""
    lines = ["| image | MB | compressed MB | Python packages | files |", "| --- | --- | --- | --- | --- |"]
    for facts in results["systems"].values():
        cells = (facts["image_mb"], facts["compressed_mb"], facts["packages"], facts["files"])
        lines.append(f"| {facts['title']} | {' | '.join(map(str, cells))} |")
    heads = (
        "| system | INIT ms | first answer ms, median (p10 to p90) | CPU ms | peak MB process / cgroup | times ours |"
    )
    for entry in results["starts"]:
        lines += ["", f"{entry['memory_mb']} MB, {entry['cpus']} CPUs, page cache {entry['page_cache']}", ""]
        lines += [heads, "| --- | --- | --- | --- | --- | --- |"]
        lines += [_row(results["systems"][name]["title"], entry, name) for name in entry["systems"]]
    return "\n".join(lines)


def _row(title: str, entry: Mapping[str, Any], name: str) -> str:
    found = entry["systems"][name]
    if "failed" in found:
        return f"| {title} | {found['failed']} | | | | |"
    first = found["first_answer_ms"]
    cells = (
        title,
        f"{found['init_ms']['p50']:.0f}",
        f"{first['p50']:.0f} ({first['p10']:.0f} to {first['p90']:.0f})",
        f"{found['cpu_ms']['p50']:.0f}",
        f"{found['process_peak_mb']:.0f} / {found['cgroup_peak_mb']:.0f}",
        f"{entry['ratios'].get(name, {}).get('first_answer', '')}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
