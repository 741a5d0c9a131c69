"""Embakery beside its peers, on this machine, in one run.

    python -m benchmarks.compare [--quick] [--against NAME ...] [--corpus NAME ...] [--threads N] [--rounds N]
                                 [--out DIR] [--list]

Sets up an environment and a model for each peer under build/bench/ the first time. Writes latest.json, latest.md and
latest.svg. How it measures is told in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.chart import chart
from benchmarks.contest import Effort, Plan, compare
from benchmarks.corpora import NAMES
from benchmarks.environments import ROOT
from benchmarks.systems import SYSTEMS
from benchmarks.table import markdown

FULL = Effort(
    sizes={"short": 2048, "mixed": 1024, "long": 256},
    tuned=0.25,
    rounds=7,
    latency_rounds=10,
    latency_texts=20,
    starts=10,
    alone=256,
)
QUICK = Effort(
    sizes={"short": 512, "mixed": 256, "long": 96},
    tuned=0.25,
    rounds=3,
    latency_rounds=3,
    latency_texts=10,
    starts=5,
    alone=64,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the tables."""
    plan, out = parse(arguments)
    # So that this signal, too, unwinds the stack and ends the systems' processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = compare(plan)
    page = markdown(results)
    out.mkdir(parents=True, exist_ok=True)
    (out / "latest.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (out / "latest.md").write_text(page, encoding="utf-8")
    (out / "latest.svg").write_text(chart(results), encoding="utf-8")
    print(page)
    print(f"written to {out}", file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> tuple[Plan, Path]:
    """Return the plan, and where the results go. With --list, print the systems and leave."""
    peers = [system.name for system in SYSTEMS if not system.is_ours]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts, rounds and starts")
    parser.add_argument("--against", nargs="+", choices=peers, default=peers, metavar="NAME", help="only these peers")
    parser.add_argument("--corpus", nargs="+", choices=NAMES, default=NAMES, help="only these corpora")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for every system; default: all cores")
    parser.add_argument("--rounds", type=int, help="rounds of each corpus")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--list", action="store_true", help="list the systems, and what was chosen for each")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(f"{system.name:<33}{system.choices}" for system in SYSTEMS))
        parser.exit()
    effort = QUICK if given.quick else FULL
    plan = Plan(
        systems=tuple(system for system in SYSTEMS if system.is_ours or system.name in given.against),
        corpora=tuple(name for name in NAMES if name in given.corpus),
        threads=given.threads,
        effort=replace(effort, rounds=given.rounds or effort.rounds),
    )
    return plan, given.out


if __name__ == "__main__":
    main()
