"""The system under chaos: real servers, the unchanged handler in child processes, and faults between them by seed."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis
from aws_faults import Rates, Service
from aws_proxy import FaultyAws
from chaos_plan import Plan, Planned
from delivery import DuplicatingQueue
from redis_proxy import FaultyRedis, Mode

from local.event_source_mapping import EventSourceMapping, MappingSettings
from local.functions import LocalFunction
from local.logs import LogCollector
from local.resources import AwsClients, Queue, Resources, create_resources
from local.servers import start_ministack, start_redis
from local.settings import LocalSettings, function_environment
from local.sqs import SqsQueue

HERE = Path(__file__).parent
_MODES = (
    Mode.REFUSED,
    Mode.SILENT,
    Mode.SLOW,
    Mode.WRONG_TYPE,
    Mode.OOM,
    Mode.NOAUTH,
    Mode.RESET_MID_REPLY,
    Mode.GARBAGE,
)
_FAULT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Chaos:
    """How bad it gets. Shares are of messages, of time, of requests, of invocations."""

    seed: int
    kills: int
    duplicated: float = 0.035
    redis_faulty: float = 1 / 3
    aws_faulty: float = 0.03
    clock_wrong: float = 0.02
    timeout_seconds: float = 6.0
    visibility_seconds: int = 15
    concurrency: int = 2


@dataclass(slots=True)
class Faults:
    """What was done to the system."""

    kills: int = 0
    redis_faulty_seconds: float = 0.0
    corrupted: int = 0


@dataclass
class World:
    """Everything that runs."""

    chaos: Chaos
    clients: AwsClients
    resources: Resources
    ordered: str
    redis: FaultyRedis
    aws: FaultyAws
    redis_port: int
    function: LocalFunction
    logs: LogCollector
    mapping: EventSourceMapping
    queue: DuplicatingQueue
    source: Queue
    dead_letters: Queue
    faults: Faults = field(default_factory=Faults)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, plan: Plan, *, patience_seconds: float, report: Callable[[int], None] = lambda _: None) -> float:
        """Send everything, be unkind until the queue is empty; return the seconds it took."""
        began = time.monotonic()
        threads = [
            threading.Thread(target=target, daemon=True)
            for target in (
                lambda: self._send(plan.messages),
                self._trouble_redis,
                self._corrupt,
                lambda: self._kill(plan),
            )
        ]
        share = self.chaos.aws_faulty / 4
        for service in (Service.S3, Service.DYNAMODB, Service.SQS):
            rates = Rates(throttled=share, internal_error=share, reset_before=share, reset_after=share, slow=share / 4)
            self.aws.set_rates(service, rates)
        for thread in threads:
            thread.start()
        self.mapping.start()
        threads[0].join()
        while not self._is_empty():
            if time.monotonic() - began > patience_seconds:
                raise TimeoutError(f"after {patience_seconds:.0f} s the queue is not empty: {self._left()}")
            report(self._left())
            time.sleep(0.5)
        self._stopping.set()
        for thread in threads:
            thread.join()
        self.mapping.stop()
        self.aws.heal()
        return time.monotonic() - began

    def _send(self, messages: Sequence[Planned]) -> None:
        numbered = list(enumerate(messages))
        for start in range(0, len(numbered), 10):
            entries = [_entry(number, message) for number, message in numbered[start : start + 10]]
            answer = self.clients.sqs.send_message_batch(QueueUrl=self.source.url, Entries=entries)  # type: ignore[arg-type]
            assert not answer.get("Failed")

    def _done(self) -> int:
        """Return how many messages are gone from the queue, by the mapping or by the handler itself."""
        statistics = self.mapping.statistics
        return statistics.deleted + statistics.already_gone

    def _left(self) -> int:
        answer = self.clients.sqs.get_queue_attributes(QueueUrl=self.source.url, AttributeNames=["All"])
        attributes = answer["Attributes"]
        hidden = attributes["ApproximateNumberOfMessagesNotVisible"]
        return int(attributes["ApproximateNumberOfMessages"]) + int(hidden)

    def _is_empty(self) -> bool:
        if self._left():
            return False
        # A message on its way from one state to the other is counted in neither.
        time.sleep(0.5)
        return not self._left()

    def _trouble_redis(self) -> None:
        """Be faulty for a second, in one way after the other, then whole for as long as the share leaves."""
        healthy_seconds = _FAULT_SECONDS / self.chaos.redis_faulty - _FAULT_SECONDS
        for mode in itertools.cycle(_MODES):
            if self._stopping.wait(healthy_seconds):
                return
            began = time.monotonic()
            self.redis.switch(mode)
            self._stopping.wait(_FAULT_SECONDS)
            self.redis.switch(Mode.OFF)
            self.faults.redis_faulty_seconds += time.monotonic() - began

    def _corrupt(self) -> None:
        """Change and exchange cached values behind everybody's back."""
        draw = random.Random(self.chaos.seed)
        direct = redis.Redis(port=self.redis_port)
        while not self._stopping.wait(0.05):
            first, second = direct.randomkey(), direct.randomkey()
            if not isinstance(first, bytes) or not isinstance(second, bytes):
                continue
            one, other = direct.get(first), direct.get(second)
            if not isinstance(one, bytes) or not isinstance(other, bytes):
                continue
            if draw.random() < 0.5:
                place = draw.randrange(len(one))
                direct.set(first, one[:place] + bytes([one[place] ^ 0x10]) + one[place + 1 :], keepttl=True)
                self.faults.corrupted += 1
            elif first != second:
                direct.set(first, other, keepttl=True)
                direct.set(second, one, keepttl=True)
                self.faults.corrupted += 2
        direct.close()

    def _kill(self, plan: Plan) -> None:
        """Kill as often as was said, at random points of the work."""
        draw = random.Random(self.chaos.seed + 1)
        points = sorted(draw.uniform(0, 0.9) * len(plan.messages) for _ in range(self.chaos.kills))
        for point in points:
            while self._done() < point and not self._stopping.wait(0.01):
                pass
            time.sleep(draw.uniform(0, 0.3))
            while self.function.kill_one() is None:
                if self._stopping.wait(0.002):
                    return
            self.faults.kills += 1


@contextlib.contextmanager
def chaos_world(artifact: Path, chaos: Chaos, *, fifo: bool) -> Iterator[World]:
    """Start everything, and end it."""
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="embakery-chaos-", ignore_cleanup_errors=True))
        )
        logs = LogCollector(folder / "functions.log", echo=None)
        stack.callback(logs.close)
        ministack = start_ministack(folder)
        stack.callback(ministack.stop)
        redis_server = start_redis(folder)
        stack.callback(redis_server.stop)
        clients = AwsClients.connect(f"http://{ministack.address}")
        stack.callback(clients.close)
        aws = stack.enter_context(FaultyAws(f"http://{ministack.address}", seed=chaos.seed))
        faulty_redis = stack.enter_context(FaultyRedis(redis_server.port, seed=chaos.seed))
        resources = create_resources(
            clients,
            function_timeout_seconds=chaos.timeout_seconds,
            visibility_timeout_seconds=chaos.visibility_seconds,
        )
        ordered = _ordered_results(clients)
        function = _function(artifact, chaos, aws.url, faulty_redis.url, resources, ordered, logs)
        stack.callback(function.close)
        source, dead = (
            (resources.documents_fifo, resources.dead_letters_fifo)
            if fifo
            else (resources.documents, resources.dead_letters)
        )
        queue = DuplicatingQueue(SqsQueue(clients.sqs, source.url), chaos.seed, chaos.duplicated)
        mapping = EventSourceMapping(
            MappingSettings(queue_arn=source.arn, batch_size=10, max_concurrency=chaos.concurrency),
            queue=queue,
            function=function,
            log=lambda line: logs.line("mapping", line),
        )
        stack.callback(mapping.stop)
        yield World(
            chaos, clients, resources, ordered, faulty_redis, aws, redis_server.port,
            function, logs, mapping, queue, source, dead,
        )  # fmt: skip


def _function(
    artifact: Path, chaos: Chaos, aws_url: str, redis_url: str, resources: Resources, ordered: str, logs: LogCollector
) -> LocalFunction:
    env = function_environment(LocalSettings(artifact), aws_url=aws_url, redis_url=redis_url, resources=resources)
    destinations = {**json.loads(env["EMBAKERY_DESTINATIONS"]), "ordered": f"sqs+{ordered}"}
    return LocalFunction(
        "chaos",
        handler="killing_handler.handler",
        env={
            **env,
            "EMBAKERY_DESTINATIONS": json.dumps(destinations),
            "EMBAKERY_CHAOS_CLOCK": str(chaos.clock_wrong),
            "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
        },
        logs=logs,
        timeout_seconds=chaos.timeout_seconds,
        concurrency=chaos.concurrency,
    )


def _ordered_results(clients: AwsClients) -> str:
    return clients.sqs.create_queue(QueueName="chaos-results.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]


def _entry(number: int, message: Planned) -> dict[str, str]:
    fifo = (
        {} if message.group_id is None else {"MessageGroupId": message.group_id, "MessageDeduplicationId": str(number)}
    )
    return {"Id": str(number % 10), "MessageBody": message.body, **fifo}
