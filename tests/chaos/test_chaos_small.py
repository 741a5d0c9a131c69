"""Chaos in small: the runs of `make chaos`, with real kills, faults between real servers, and nothing lost."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from chaos_plan import Plan, fifo_plan, killers_plan, standard_plan
from chaos_world import Chaos, chaos_world
from run_chaos import run

from local.functions import LocalFunction
from local.logs import LogCollector

SEED = 20261125
# `make chaos` has ten thousand messages; 200 deadlines take ten minutes: EMBAKERY_DEADLINE_RUNS=200.
DEADLINES = int(os.environ.get("EMBAKERY_DEADLINE_RUNS", "8"))
WILD = Chaos(SEED, kills=3, timeout_seconds=3, visibility_seconds=5)
QUIET = Chaos(SEED, kills=0, duplicated=0, aws_faulty=0, clock_wrong=0, timeout_seconds=3, visibility_seconds=5)


@pytest.mark.usefixtures("redis_server")
@pytest.mark.parametrize(
    ("name", "plan", "chaos"),
    [
        ("standard", standard_plan(300, poison_share=0.05, killer_share=0.2, seed=SEED), WILD),
        ("fifo", fifo_plan(12, 20, poison_share=0.05, killer_share=0.2, seed=SEED), WILD),
        ("killers", killers_plan(3, seed=SEED), QUIET),
    ],
    ids=["standard", "fifo", "killers"],
)
def test_nothing_is_lost_wrong_stale_out_of_order_or_in_the_wrong_queue(
    default_artifact: Path, name: str, plan: Plan, chaos: Chaos
) -> None:
    counts = run(plan, chaos, name=name, artifact=default_artifact, patience_seconds=280)
    bad = ("lost", "wrong_vectors", "stale_overwrites", "inversions", "healthy_dead", "poison_missing")
    assert {what: counts[what] for what in bad} == dict.fromkeys(bad, 0)
    assert counts["malformed_responses"] == 0
    assert counts["poison_dead"] == len(plan.markers)
    # It was chaos: what was to happen did.
    assert counts["kills"] == chaos.kills
    assert counts["crashes"] >= plan.killers


def test_random_deadlines_are_kept_and_each_run_gets_somewhere(default_artifact: Path) -> None:
    draw = random.Random(SEED)
    timeouts, stuck = 0, 0
    with chaos_world(default_artifact, QUIET, fifo=False) as world:
        world.function.timeout_seconds = 30
        # The model is loaded: a cold start is not what is tried here.
        _invoke(world.function, world.source.arn, [json.dumps({"v": 1, "documents": [{"id": "warm", "text": "up"}]})])
        for number in range(DEADLINES):
            world.function.timeout_seconds = draw.uniform(1.0, 4.0)
            before = _written(world.logs)
            answer = _invoke(world.function, world.source.arn, _too_much(draw, number))
            timeouts += answer is None
            stuck += not _comes_to_exceed(world.logs, before)
        assert world.function.statistics.timeouts == 0
    assert (timeouts, stuck) == (0, 0)


def _invoke(function: LocalFunction, arn: str, bodies: list[str]) -> Any:
    records = [
        {
            "messageId": f"m{number}",
            "receiptHandle": f"r{number}",
            "body": body,
            "attributes": {"ApproximateReceiveCount": "1"},
            "eventSourceARN": arn,
        }
        for number, body in enumerate(bodies)
    ]
    return function.invoke({"Records": records}, wait_seconds=5)


def _too_much(draw: random.Random, number: int) -> list[str]:
    """Return more than four seconds of work: ten messages of a hundred documents of up to 256 tokens."""
    words = ("latency", "deadline", "vector", "harbour", "lantern", "orchard", "queue", "index")
    return [
        json.dumps(
            {
                "v": 1,
                "documents": [
                    {"id": f"{number}.{message}.{place}", "text": " ".join(draw.choices(words, k=draw.randint(5, 300)))}
                    for place in range(100)
                ],
            }
        )
        for message in range(10)
    ]


def _written(logs: LogCollector) -> float:
    return logs.totals().get("ResultsWritten", 0)


def _comes_to_exceed(logs: LogCollector, before: float) -> bool:
    """Say whether more was written; the log trails the answer by a moment."""
    deadline = time.monotonic() + 2
    while _written(logs) <= before and time.monotonic() < deadline:
        time.sleep(0.02)
    return _written(logs) > before
