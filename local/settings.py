"""What the local system is told, and what it tells its functions."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local.environment import aws_environment
from local.resources import Resources


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How to run the system. Seconds are seconds of wall clock; the defaults are those of template.yaml where it fits.

    `http_port` None or 0 means any free one. `visibility_timeout_seconds` None means six times the function's timeout
    plus the batching window. `env` is laid over the functions' environment.
    """

    artifact: Path
    http_port: int | None = None
    engine: str = "auto"
    threads: int = 1
    batch_size: int = 10
    batching_window_seconds: float = 0.0
    queue_concurrency: int = 1
    function_timeout_seconds: float = 60.0
    api_timeout_seconds: float = 29.0
    visibility_timeout_seconds: int | None = None
    memory_mb: int = 1769
    verbose: bool = False
    queue_handler: str = "handlers.queue.handler"
    api_handler: str = "handlers.api.handler"
    env: Mapping[str, str] = field(default_factory=dict)


def function_environment(
    settings: LocalSettings, *, aws_url: str, redis_url: str, resources: Resources
) -> dict[str, str]:
    """Return what template.yaml would set, for these servers; the cache secret is new for every system."""
    destinations = {
        "default": f"s3://{resources.bucket}/results/",
        "table": f"dynamodb://{resources.table}",
        "queue": f"sqs+{resources.results.url}",
    }
    return {
        **aws_environment(aws_url),
        "EMBAKERY_ARTIFACT": str(settings.artifact.resolve()),
        "EMBAKERY_ENGINE": settings.engine,
        "EMBAKERY_THREADS": str(settings.threads),
        "EMBAKERY_REDIS_URL": redis_url,
        "EMBAKERY_CACHE_SECRET": secrets.token_hex(32),
        "EMBAKERY_DESTINATIONS": json.dumps(destinations),
        "EMBAKERY_SOURCE_BUCKET": resources.bucket,
        "EMBAKERY_STATE_TABLE": resources.state_table,
        "EMBAKERY_BULK_QUEUE_URL": resources.bulk.url,
        "POWERTOOLS_SERVICE_NAME": "embakery",
        "POWERTOOLS_METRICS_NAMESPACE": "Embakery",
        "LOG_LEVEL": "INFO",
        **settings.env,
    }
