"""Plays CloudWatch: sums the EMF metrics that functions print, and keeps every other line in a log file.

EMF: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

_COUNT_UNIT = "Count"


@dataclass(frozen=True, slots=True)
class Sample:
    """One metric of one EMF document: the sum and the number of its values."""

    namespace: str
    name: str
    unit: str
    total: float
    values: int


class LogCollector:
    """Takes the functions' output line by line, from any thread."""

    def __init__(self, log_file: Path, *, echo: TextIO | None = None) -> None:
        """Append log lines to `log_file`, and to `echo` if given."""
        self.log_file = log_file
        self._stream = log_file.open("a", encoding="utf-8")
        self._echo = echo
        self._lock = threading.Lock()
        self._sums: dict[str, Sample] = {}

    def line(self, source: str, line: str) -> None:
        """Take one line printed by the function `source`."""
        samples = parse_emf(line)
        with self._lock:
            if samples:
                for sample in samples:
                    self._add(sample)
            elif not self._stream.closed:
                self._write(f"{source} {line}\n")

    def totals(self) -> dict[str, float]:
        """Return each metric's sum over every function and dimension, by metric name."""
        with self._lock:
            return {name: sample.total for name, sample in self._sums.items()}

    def prometheus(self) -> str:
        """Return the sums in Prometheus's text exposition format: counts as `_total`, others as `_sum` and `_count`."""
        with self._lock:
            samples = sorted(self._sums.values(), key=lambda sample: sample.name)
        return "".join(line + "\n" for sample in samples for line in _exposition(sample))

    def close(self) -> None:
        """Close the log file; metrics are still taken, log lines are dropped."""
        with self._lock:
            self._stream.close()

    def _add(self, sample: Sample) -> None:
        before = self._sums.get(sample.name)
        self._sums[sample.name] = (
            sample
            if before is None
            else Sample(
                namespace=before.namespace,
                name=sample.name,
                unit=before.unit,
                total=before.total + sample.total,
                values=before.values + sample.values,
            )
        )

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
        if self._echo is not None:
            self._echo.write(text)
            self._echo.flush()


def parse_emf(line: str) -> list[Sample]:
    """Return the metrics of an EMF document; none if the line is anything else."""
    if not line.startswith("{") or '"CloudWatchMetrics"' not in line:
        return []
    try:
        document = json.loads(line)
        # The same metric under several dimension sets is one value.
        by_name = {sample.name: sample for sample in _samples(document)}
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
    return list(by_name.values())


def _samples(document: Mapping[str, Any]) -> Iterator[Sample]:
    for directive in document["_aws"]["CloudWatchMetrics"]:
        for metric in directive["Metrics"]:
            value = document[metric["Name"]]
            values = [float(number) for number in (value if isinstance(value, list) else [value])]
            yield Sample(
                namespace=directive["Namespace"],
                name=metric["Name"],
                unit=metric.get("Unit", "None"),
                total=sum(values),
                values=len(values),
            )


def _exposition(sample: Sample) -> Iterator[str]:
    name = f"{_snake_case(sample.namespace)}_{_snake_case(sample.name)}"
    if sample.unit == _COUNT_UNIT:
        yield f"# TYPE {name}_total counter"
        yield f"{name}_total {_number(sample.total)}"
        return
    if sample.unit != "None":
        name = f"{name}_{_snake_case(sample.unit)}"
    yield f"# TYPE {name} summary"
    yield f"{name}_sum {_number(sample.total)}"
    yield f"{name}_count {sample.values}"


def _snake_case(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^A-Za-z0-9]+", "_", words).strip("_").lower()


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
