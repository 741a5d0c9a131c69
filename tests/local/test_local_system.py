"""The whole system, with sample handlers instead of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from local_fakes import HANDLER_ENV, eventually

from local.errors import FunctionInitError
from local.settings import LocalSettings
from local.system import LocalSystem

FIELDS = {
    "http",
    "aws",
    "redis",
    "queue_url",
    "fifo_queue_url",
    "dlq_url",
    "fifo_dlq_url",
    "bulk_queue_url",
    "result_queue_url",
    "bucket",
    "table",
    "state_table",
}


def settings(*, queue_handler: str = "sample_handlers.queue", http_port: int | None = None) -> LocalSettings:
    return LocalSettings(
        artifact=Path("artifact"),
        http_port=http_port,
        queue_handler=queue_handler,
        api_handler="sample_handlers.api",
        env=HANDLER_ENV,
    )


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def test_messages_requests_metrics_and_a_redis_fault() -> None:
    report: list[str] = []
    with LocalSystem(settings(), report=report.append) as system:
        assert system.endpoints.keys() == FIELDS
        folder = system.parts.folder
        sqs = system.parts.clients.sqs
        sqs.send_message(QueueUrl=system.endpoints["queue_url"], MessageBody="1")
        sqs.send_message(
            QueueUrl=system.endpoints["fifo_queue_url"], MessageBody="1", MessageGroupId="g", MessageDeduplicationId="1"
        )
        eventually(lambda: system.metrics() == {"Documents": 2.0})
        assert json.loads(get(system.endpoints["http"] + "/health"))["rawPath"] == "/health"
        text = get(system.endpoints["http"] + "/metrics")
        assert "embakery_documents_total 2\n" in text
        assert 'embakery_local_function_invocations_total{function="embakery-api"} 1\n' in text
        assert 'embakery_local_mapping_deleted_total{mapping="embakery-documents.fifo"}' in text
        system.redis_process.kill()
        system.redis_process.restart()
        assert system.redis_process.is_running()
    assert [line.split()[0] for line in report] == [
        "ministack",
        "redis",
        "resources",
        "function",
        "function",
        "mapping",
        "mapping",
        "http",
    ]
    assert not system.redis_process.is_running()
    assert not system.parts.ministack.is_running()
    assert not folder.exists()
    system.stop()


def test_a_handler_that_does_not_load_stops_what_was_started() -> None:
    system = LocalSystem(settings(queue_handler="broken_handlers.handler"), report=print)
    with pytest.raises(FunctionInitError, match="RuntimeError: no artifact"):
        system.start()


SERVE = """
import sys
from pathlib import Path
from local.settings import LocalSettings
from local.system import LocalSystem

settings = LocalSettings(
    artifact=Path("artifact"), queue_handler="sample_handlers.queue", api_handler="sample_handlers.api"
)
with LocalSystem(settings, report=lambda line: print(line, file=sys.stderr)) as system:
    system.serve_until_interrupted()
print("stopped")
"""


def test_serving_prints_the_local_line_and_ends_cleanly_on_ctrl_c() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | HANDLER_ENV,
    ) as process:
        try:
            assert process.stdout is not None
            word, _, document = process.stdout.readline().partition(" ")
            assert word == "LOCAL"
            endpoints = json.loads(document)
            assert endpoints.keys() == FIELDS
            assert get(endpoints["http"] + "/metrics")
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
        finally:
            # Otherwise a failed test waits for it for ever.
            process.kill()
    assert (process.returncode, output) == (0, "stopped\n"), errors
