"""EMF documents become sums, everything else log lines."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from local.logs import LogCollector


def emf(values: dict[str, Any], *, units: dict[str, str] | None = None, dimension_sets: int = 1) -> str:
    metrics = [{"Name": name, "Unit": (units or {}).get(name, "Count")} for name in values]
    directive = {"Namespace": "Embakery", "Dimensions": [["service"]], "Metrics": metrics}
    aws = {"Timestamp": 1, "CloudWatchMetrics": [directive] * dimension_sets}
    return json.dumps({"_aws": aws, "service": "embakery", **values})


@pytest.fixture
def collector(tmp_path: Path) -> LogCollector:
    return LogCollector(tmp_path / "functions.log")


def test_metrics_are_summed_by_name(collector: LogCollector) -> None:
    collector.line("queue", emf({"Documents": 3, "CacheHits": [1, 2]}))
    collector.line("api", emf({"Documents": [4.5]}, dimension_sets=2))
    assert collector.totals() == {"Documents": 7.5, "CacheHits": 3.0}
    collector.close()
    assert collector.log_file.read_text() == ""


def test_prometheus_text(collector: LogCollector) -> None:
    collector.line("queue", emf({"CacheHits": [1, 2], "EncodeTime": [1.5, 2]}, units={"EncodeTime": "Milliseconds"}))
    assert collector.prometheus().splitlines() == [
        "# TYPE embakery_cache_hits_total counter",
        "embakery_cache_hits_total 3",
        "# TYPE embakery_encode_time_milliseconds summary",
        "embakery_encode_time_milliseconds_sum 3.5",
        "embakery_encode_time_milliseconds_count 2",
    ]
    collector.close()


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        '{"level": "INFO"}',
        '{"_aws": {"CloudWatchMetrics": 3}}',
        '{"_aws": {"CloudWatchMetrics": [{"Namespace": "E", "Metrics": [{"Name": "Missing"}]}]}}',
        '{"_aws": {"CloudWatchMetrics": [',
        '{"_aws": {"CloudWatchMetrics": [{"Namespace": "E", "Metrics": [{"Name": "A"}]}]}, "A": "text"}',
    ],
)
def test_everything_else_is_a_log_line(tmp_path: Path, line: str) -> None:
    echo = io.StringIO()
    collector = LogCollector(tmp_path / "functions.log", echo=echo)
    collector.line("queue", line)
    collector.close()
    assert collector.totals() == {}
    assert collector.log_file.read_text() == echo.getvalue() == f"queue {line}\n"


def test_lines_from_many_threads_are_all_counted(collector: LogCollector) -> None:
    line = emf({"Documents": 1})

    def print_lines() -> None:
        for _ in range(200):
            collector.line("queue", line)

    threads = [threading.Thread(target=print_lines) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collector.totals() == {"Documents": 800.0}
    collector.close()
