"""Starts the parts of the local system in order, each with its end on a stack."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local.event_source_mapping import EventSourceMapping, MappingSettings
from local.functions import LocalFunction
from local.http import HttpGateway, HttpServer
from local.logs import LogCollector
from local.processes import ServerProcess
from local.resources import AwsClients, Queue, Resources, create_resources
from local.servers import start_ministack, start_redis
from local.settings import LocalSettings, function_environment
from local.sqs import MAX_PER_CALL, SqsQueue

_IN_FLIGHT_SECONDS = 10.0

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LocalParts:
    """What runs."""

    folder: Path
    logs: LogCollector
    ministack: ServerProcess
    redis: ServerProcess
    clients: AwsClients
    resources: Resources
    queue_function: LocalFunction
    api_function: LocalFunction
    mappings: tuple[EventSourceMapping, ...]
    http: HttpServer


class Starter:
    """Starts one system. What it starts ends with the stack, in reverse order."""

    def __init__(self, settings: LocalSettings, stack: contextlib.ExitStack, report: Report) -> None:
        self._settings = settings
        self._stack = stack
        self._report = report
        temporary = tempfile.TemporaryDirectory(prefix="embakery-", ignore_cleanup_errors=True)
        self._folder = Path(stack.enter_context(temporary))
        self._logs = LogCollector(self._folder / "functions.log", echo=sys.stderr if settings.verbose else None)
        stack.callback(self._logs.close)

    def start(self, *, metrics: Callable[[], str]) -> LocalParts:
        """Start everything; the HTTP server is bound but answers only when its `start` is called.

        Raises ServerStartError, or FunctionInitError if a handler does not load.
        """
        ministack = self._server(start_ministack(self._folder))
        redis = self._server(start_redis(self._folder))
        aws_url = f"http://{ministack.address}"
        clients = AwsClients.connect(aws_url)
        self._stack.callback(clients.close)
        resources = self._resources(clients)
        env = function_environment(self._settings, aws_url=aws_url, redis_url=redis_url(redis), resources=resources)
        queue_function, api_function = self._queue_function(env), self._api_function(env)
        return LocalParts(
            folder=self._folder,
            logs=self._logs,
            ministack=ministack,
            redis=redis,
            clients=clients,
            resources=resources,
            queue_function=queue_function,
            api_function=api_function,
            mappings=self._mappings(clients, resources, queue_function),
            http=self._http(api_function, metrics),
        )

    def _server(self, server: ServerProcess) -> ServerProcess:
        self._stack.callback(server.stop)
        self._report(part_line(server.name, f"{server.description} on {server.address}"))
        return server

    def _resources(self, clients: AwsClients) -> Resources:
        resources = create_resources(
            clients,
            function_timeout_seconds=self._settings.function_timeout_seconds,
            batching_window_seconds=self._settings.batching_window_seconds,
            visibility_timeout_seconds=self._settings.visibility_timeout_seconds,
        )
        self._report(part_line("resources", f"6 queues, bucket {resources.bucket}, table {resources.table}"))
        return resources

    def _queue_function(self, env: Mapping[str, str]) -> LocalFunction:
        function = LocalFunction(
            "embakery-queue",
            handler=self._settings.queue_handler,
            env=env,
            logs=self._logs,
            timeout_seconds=self._settings.function_timeout_seconds,
            memory_mb=self._settings.memory_mb,
            # Room for both queues, so that neither throttles the other; the second half starts only if both are busy.
            concurrency=2 * self._settings.queue_concurrency,
        )
        return self._warmed(function)

    def _api_function(self, env: Mapping[str, str]) -> LocalFunction:
        function = LocalFunction(
            "embakery-api",
            handler=self._settings.api_handler,
            env=env,
            logs=self._logs,
            timeout_seconds=self._settings.api_timeout_seconds,
            memory_mb=self._settings.memory_mb,
        )
        return self._warmed(function)

    def _warmed(self, function: LocalFunction) -> LocalFunction:
        self._stack.callback(function.close)
        began = time.monotonic()
        function.warm()
        self._report(part_line("function", f"{function.name} warm in {time.monotonic() - began:.1f} s"))
        return function

    def _mappings(
        self, clients: AwsClients, resources: Resources, function: LocalFunction
    ) -> tuple[EventSourceMapping, ...]:
        settings = self._settings
        mappings = (
            self._mapping(
                clients,
                resources.documents,
                function,
                batch_size=settings.batch_size,
                window_seconds=settings.batching_window_seconds,
            ),
            # Lambda's limits for FIFO queues: ten messages, no window.
            self._mapping(
                clients,
                resources.documents_fifo,
                function,
                batch_size=min(settings.batch_size, MAX_PER_CALL),
                window_seconds=0.0,
            ),
        )
        self._stack.callback(_stop_mappings, mappings)
        for mapping in mappings:
            mapping.start()
            batches = f"batches of {mapping.settings.batch_size}"
            self._report(part_line("mapping", f"{mapping.queue_name} to {function.name}, {batches}"))
        return mappings

    def _mapping(
        self, clients: AwsClients, queue: Queue, function: LocalFunction, *, batch_size: int, window_seconds: float
    ) -> EventSourceMapping:
        settings = MappingSettings(
            queue_arn=queue.arn,
            batch_size=batch_size,
            batching_window_seconds=window_seconds,
            max_concurrency=self._settings.queue_concurrency,
        )
        return EventSourceMapping(
            settings,
            queue=SqsQueue(clients.sqs, queue.url),
            function=function,
            log=lambda line: self._logs.line(queue.name, line),
        )

    def _http(self, function: LocalFunction, metrics: Callable[[], str]) -> HttpServer:
        wanted = self._settings.http_port
        gateway = HttpGateway(function, metrics=metrics, log=lambda line: self._logs.line("http", line))
        server = HttpServer(gateway, port=wanted)
        self._stack.callback(server.stop)
        note = f" (port {wanted} is taken)" if wanted and wanted != server.port else ""
        self._report(part_line("http", f"{server.url} to {function.name}{note}"))
        return server


def part_line(part: str, text: str) -> str:
    """Return one line of the start report."""
    return f"{part:<10} {text}"


def redis_url(server: ServerProcess) -> str:
    """Return the server's URL, database 0."""
    return f"redis://{server.address}/0"


def _stop_mappings(mappings: tuple[EventSourceMapping, ...]) -> None:
    # All are told first: their long polls end at the same time.
    for mapping in mappings:
        mapping.request_stop()
    for mapping in mappings:
        mapping.stop(timeout_seconds=_IN_FLIGHT_SECONDS)
