"""make chaos: messages through the real queue while everything around them fails; prints one line `CHAOS {json}`.

python tests/chaos/run_chaos.py [standard] [fifo] [killers] [--messages 10000] [--kills 30] [--seed 20261125]

standard: poison, kill -9, a faulty Redis, AWS errors, duplicates, wrong clocks. fifo: the same in groups of twenty.
killers: batches of ten with one to three documents that kill the process, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos_plan import Plan, fifo_plan, killers_plan, standard_plan
from chaos_verdict import judge, right_vectors
from chaos_world import Chaos, chaos_world

from cli.progress import progress
from embakery import Embedder

ARTIFACT = Path(__file__).parents[2] / "build" / "all-MiniLM-L6-v2"


def run(plan: Plan, chaos: Chaos, *, name: str, artifact: Path, patience_seconds: float) -> dict[str, Any]:
    """Run one plan under chaos and return all counts."""
    fifo = plan.messages[0].group_id is not None
    embedder = Embedder.load(artifact, threads=os.cpu_count() or 1)
    vectors = right_vectors(plan, embedder.embed)
    engine = embedder.engine.name
    embedder.close()
    with chaos_world(artifact, chaos, fifo=fifo) as world, progress(name, len(plan.messages)) as advance:
        shown = 0

        def report(left: int) -> None:
            nonlocal shown
            advance(max(0, len(plan.messages) - left - shown))
            shown = max(shown, len(plan.messages) - left)

        seconds = world.run(plan, patience_seconds=patience_seconds, report=report)
        verdict = judge(world, plan, vectors)
        totals, functions, mapping = world.logs.totals(), world.function.statistics, world.mapping.statistics
        return {
            "run": name,
            "clean": verdict.is_clean,
            **verdict.as_json(),
            "seed": chaos.seed,
            "messages": len(plan.messages),
            "poison": len(plan.markers),
            "killers": plan.killers,
            "kills": world.faults.kills,
            "delivered_twice": world.queue.duplicated,
            "redis_faulty_share": round(world.faults.redis_faulty_seconds / seconds, 2),
            "redis_faults": sum(world.redis.injected.values()),
            "aws_faults": sum(world.aws.injected.values()),
            "cache_values_corrupted": world.faults.corrupted,
            "cache_corrupt_found": int(totals.get("CacheCorrupt", 0)),
            "cache_hits": int(totals.get("CacheHits", 0)),
            "invocations": functions.invocations,
            "cold_starts": functions.cold_starts,
            "crashes": functions.crashes,
            "timeouts": functions.timeouts,
            "malformed_responses": mapping.malformed_responses,
            "engine": engine,
            "seconds": round(seconds, 1),
        }


def main() -> int:
    """Run the standard and the FIFO queue, or one of them; the exit status says whether both were clean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--patience", type=float, default=3000.0, help="seconds after which a run is given up")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("runs", nargs="*", help="standard, fifo, killers; all if none is named")
    chosen = parser.parse_args()
    seed, shares = chosen.seed, {"poison_share": 0.05, "killer_share": 0.2}
    wild, quiet = Chaos(seed, kills=chosen.kills), Chaos(seed, kills=0, duplicated=0, aws_faulty=0, clock_wrong=0)
    runs: dict[str, Callable[[], tuple[Plan, Chaos]]] = {
        "standard": lambda: (standard_plan(chosen.messages, seed=seed, **shares), wild),
        "fifo": lambda: (fifo_plan(chosen.groups, 20, seed=seed, **shares), wild),
        "killers": lambda: (killers_plan(chosen.batches, seed=seed), quiet),
    }
    clean = True
    for name in chosen.runs or runs:
        plan, chaos = runs[name]()
        counts = run(plan, chaos, name=name, artifact=ARTIFACT, patience_seconds=chosen.patience)
        clean = clean and bool(counts["clean"])
        print(f"CHAOS {json.dumps(counts)}", flush=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
