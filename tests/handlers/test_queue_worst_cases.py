"""Ways in which a queue worker loses, buries or starves a message, or overruns its time: each was found here once."""

from __future__ import annotations

import contextlib
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from unit_fakes import (
    DIMENSION,
    FakeClock,
    FakeDeadLetters,
    FakeDeadline,
    FakeQueue,
    FakeStore,
    Killed,
    MemoryTrail,
    Tiny,
    make_tiny,
)

import handlers.queue
from embakery.delivery import Received, SourceQueue
from embakery.errors import InvalidRequestError, StoreUnavailableError
from embakery.isolation import Mark, NoTrail, State, Trail
from embakery.opened import SourcePolicy
from embakery.results import EmbeddingResult, Result, WriteOutcome
from embakery.rounds import Deadline
from embakery.sources import Source
from embakery.texts import TokenIds
from embakery.vectors import Vectors
from embakery.work import Resources, WorkCounts
from embakery.worker import Outcome, Worker
from handlers.deadline import ContextDeadline
from storage.bulk_queue import SqsBulkQueue
from storage.clients import STORE
from storage.dead_letters import SqsDeadLetters
from storage.source_queue import QueueFactsReader, SqsSourceQueue
from storage.sqs import SqsStore
from storage.trail import DynamoDBTrail

ARN = "arn:aws:sqs:us-east-1:000000000000:documents"
SHA256 = "ab" * 32
TIMEOUT = 120


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "artifact")


def body(*texts: str, prefix: str = "d") -> str:
    return json.dumps({"v": 1, "documents": [{"id": f"{prefix}.{n}", "text": text} for n, text in enumerate(texts)]})


def source_body(key: str) -> str:
    return json.dumps({"v": 1, "source": {"key": key, "sha256": SHA256, "size": 100}})


def lines(count: int) -> list[bytes]:
    return [json.dumps({"id": f"d{number}", "text": "a b"}).encode() for number in range(count)]


@dataclass
class Reader:
    """Payloads by key; each opening takes a while."""

    payloads: dict[str, Sequence[bytes]]
    opening: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def lines(self, source: Source) -> Iterator[Sequence[bytes]]:
        self.opening()
        yield self.payloads[source.key]


@dataclass
class Context:
    """A Lambda context of 120 seconds on a clock."""

    clock: FakeClock
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = self.clock.now + TIMEOUT

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.end - self.clock.now) * 1000))

    @property
    def deadline(self) -> ContextDeadline:
        return ContextDeadline.of(self)  # type: ignore[arg-type]


class Minute(FakeDeadline):
    """A minute to the end."""

    def seconds_to_end(self) -> float:
        return 60.0


def process(
    tiny: Tiny,
    messages: Sequence[Received],
    *,
    store: Any,
    trail: Trail | None = None,
    queue: SourceQueue | None = None,
    reader: Reader | None = None,
    bulk: Any = None,
    deadline: Deadline | None = None,
    clock: Callable[[], float] = time.time,
) -> Outcome:
    policy = SourcePolicy(None if reader is None else lambda: reader, None if bulk is None else lambda: bulk)
    resources = Resources(tiny.embedder, None, {"default": lambda: store}, "acme")
    worker = Worker(resources, policy, trail or NoTrail(), clock)
    return worker.process(messages, queue=queue or FakeQueue(), deadline=deadline or FakeDeadline())


def slow(tiny: Tiny, clock: FakeClock, seconds: Callable[[Sequence[TokenIds]], float]) -> None:
    encode = tiny.engine.encode

    def slowly(batch: Sequence[TokenIds]) -> Vectors:
        clock.now += seconds(batch)
        return encode(batch)

    tiny.engine.encode = slowly  # type: ignore[method-assign]


# Lost


def test_a_bad_line_is_not_forgotten_when_its_payload_takes_two_receives(tiny: Tiny) -> None:
    reader, store, trail = Reader({"s": [b"{", *lines(80)]}), FakeStore(), MemoryTrail()
    dead = FakeDeadLetters()
    outcome = None
    for receive in (1, 2, 3):
        queue = FakeQueue(10, dead)
        message = Received("s", source_body("s"), receive_count=receive)
        outcome = process(
            tiny, [message], store=store, trail=trail, queue=queue, reader=reader, deadline=FakeDeadline(1)
        )
        if not outcome.failed_ids:
            break
    assert len(store.ids) == 80
    assert [letter.message_id for letter in dead.letters] == ["s"]


class Table:
    """A DynamoDB table behind a real client, which can lose reads, ends of units and its own answers."""

    def __init__(self, **marks: str) -> None:
        self.item: dict[str, Any] = {name: {"S": mark} for name, mark in marks.items()}
        self.lose_reads = self.lose_ends = self.lose_next_answer = False
        self.client = boto3.client(
            "dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b", config=STORE
        )
        self.client.meta.events.register("before-send.dynamodb", self._answer)  # type: ignore[arg-type]

    def _answer(self, request: Any, **_: object) -> AWSResponse:
        asked = json.loads(request.body)
        if "RequestItems" in asked:
            key = next(iter(asked["RequestItems"].values()))["Keys"][0]
            found = {"t": [{**key, **self.item}] if self.item else []}
            return _response(500, {}) if self.lose_reads else _response(200, {"Responses": found})
        name = asked["ExpressionAttributeNames"]["#unit"]
        mark = asked["ExpressionAttributeValues"][":mark"]
        if self.lose_ends and not mark["S"].startswith("begun"):
            return _response(500, {})
        self.item[name] = mark
        lost, self.lose_next_answer = self.lose_next_answer, False
        return _response(500 if lost else 200, {})


def _response(status: int, content: object) -> AWSResponse:
    raw = SimpleNamespace(stream=lambda *_: iter([json.dumps(content).encode()]))
    return AWSResponse("https://dynamodb", status, HTTPHeaders(), raw)


def test_a_unit_that_was_cut_is_never_taken_for_done(tiny: Tiny) -> None:
    """Its mark is not read once, and the end of its next try is lost."""
    table, store = Table(**{"u:0-3": "split 0 0"}), FakeStore(is_down=True)
    trail = DynamoDBTrail(lambda: table.client, table="t", space_id="s")
    table.lose_reads = table.lose_ends = True
    message = Received("m", body("a", "b", "c"), receive_count=3)
    assert process(tiny, [message], store=store, trail=trail).failed_ids == ("m",)
    table.lose_reads = table.lose_ends = store.is_down = False
    process(tiny, [message], store=store, trail=trail)
    assert sorted(store.ids) == ["d.0", "d.1", "d.2"]


class Orders:
    """The bulk queue's and the state table's clients."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.noted: set[str] = set()

    def send_message(self, **order: Any) -> None:
        self.sent.append(order)

    def get_item(self, **asked: Any) -> dict[str, Any]:
        return {"Item": {}} if asked["Key"]["pk"]["S"] in self.noted else {}

    def put_item(self, **put: Any) -> None:
        self.noted.add(put["Item"]["pk"]["S"])


def test_a_payload_sent_anew_after_the_model_was_changed_is_handed_over_again(tmp_path: Path) -> None:
    orders = Orders()
    bulk = SqsBulkQueue(orders, queue_url="q.fifo", dynamodb=orders, state_table="t")  # type: ignore[arg-type]
    for number, max_tokens in enumerate((8, 9)):
        embedder = make_tiny(tmp_path / str(max_tokens), max_tokens=max_tokens).embedder
        policy = SourcePolicy(lambda: Reader({"s": lines(9)}), lambda: bulk, max_documents=1)
        worker = Worker(Resources(embedder, None, {"default": FakeStore}, "acme"), policy)
        message = Received(f"sent-on-day-{number}", source_body("s"))
        assert worker.process([message], queue=FakeQueue(), deadline=FakeDeadline()).failed_ids == ()
    assert len(orders.sent) == 2


# Buried


def test_one_beginning_counts_once_though_its_first_answer_was_lost(tiny: Tiny) -> None:
    table, store = Table(), FakeStore()
    trail = DynamoDBTrail(lambda: table.client, table="t", space_id="s")
    message = Received("m", body("a"), receive_count=2)
    encode = tiny.engine.encode

    def killed_from_outside(batch: Sequence[TokenIds]) -> Vectors:
        raise Killed

    tiny.engine.encode = killed_from_outside  # type: ignore[method-assign]
    table.lose_next_answer = True
    with pytest.raises(Killed):
        process(tiny, [message], store=store, trail=trail)
    tiny.engine.encode = encode  # type: ignore[method-assign]
    outcome = process(tiny, [message], store=store, trail=trail)
    assert (outcome.failed_ids, store.ids) == ((), ["d.0"])


def test_a_store_that_hangs_makes_no_text_a_poison(tiny: Tiny) -> None:
    clock, trail, dead = FakeClock(), MemoryTrail(), FakeDeadLetters()

    @dataclass
    class HangingStore:
        end: float

        def write(self, _: Sequence[Result]) -> list[WriteOutcome]:
            # Longer than the ten seconds that are kept for writing.
            clock.now += 12.1
            if clock.now >= self.end:
                raise Killed
            raise StoreUnavailableError("no answer")

    for receive in range(2, 6):
        context = Context(clock)
        messages = [Received(f"m{n}", body("a", prefix=f"m{n}"), receive_count=receive) for n in range(10)]
        with contextlib.suppress(Killed):
            process(
                tiny,
                messages,
                store=HangingStore(context.end),
                trail=trail,
                queue=FakeQueue(10, dead),
                deadline=context.deadline,
                clock=clock,
            )
    assert [(letter.message_id, letter.code) for letter in dead.letters] == []


def test_what_another_invocation_has_in_hand_just_now_is_no_second_sighting(tiny: Tiny) -> None:
    """One kill from outside, then a message delivered to two invocations at once."""
    trail, store, dead = MemoryTrail({"m": {"0-1": Mark(State.BEGUN)}}), FakeStore(), FakeDeadLetters()
    encode = tiny.engine.encode

    def meanwhile(batch: Sequence[TokenIds]) -> Vectors:
        tiny.engine.encode = encode  # type: ignore[method-assign]
        queue = FakeQueue(10, dead)
        process(tiny, [Received("m", body("a"), receive_count=4)], store=store, trail=trail, queue=queue)
        return encode(batch)

    tiny.engine.encode = meanwhile  # type: ignore[method-assign]
    first = Received("m", body("a"), receive_count=3)
    process(tiny, [first], store=store, trail=trail, queue=FakeQueue(10, dead), deadline=Minute())
    assert (dead.letters, set(store.ids)) == ([], {"d.0"})


def test_the_followers_of_a_message_that_is_buried_at_last_are_not_buried_with_it(tiny: Tiny) -> None:
    """A text whose vector is NaN fails at each receive, and its group has come with it each time."""
    store, dead = FakeStore(), FakeDeadLetters()
    left = ["m0", "m1", "m2"]
    for receive in range(1, 11):
        texts = {"m0": "nan", "m1": "a", "m2": "b"}
        messages = [Received(n, body(texts[n], prefix=n), receive_count=receive, group_id="g") for n in left]
        process(tiny, messages, store=store, trail=MemoryTrail(), queue=FakeQueue(10, dead))
    assert [letter.message_id for letter in dead.letters] == ["m0"]
    assert store.ids == ["m1.0", "m2.0"]


def test_a_payload_that_gets_on_at_each_receive_goes_to_bulk_at_the_last(tiny: Tiny) -> None:
    store, trail, dead, reader = FakeStore(), MemoryTrail(), FakeDeadLetters(), Reader({"s": lines(600)})
    orders = Orders()
    bulk = SqsBulkQueue(orders, queue_url="q.fifo")  # type: ignore[arg-type]
    for receive in range(1, 11):
        message = Received("s", source_body("s"), receive_count=receive)
        outcome = process(
            tiny,
            [message],
            store=store,
            trail=trail,
            queue=FakeQueue(10, dead),
            reader=reader,
            bulk=bulk,
            deadline=FakeDeadline(1),
        )
        assert len(store.ids) == 50 * min(receive, 9)
    assert (dead.letters, outcome.failed_ids, len(orders.sent)) == ([], (), 1)


def test_a_payload_that_can_never_be_read_does_not_go_to_bulk(tiny: Tiny) -> None:
    def refuse() -> None:
        raise InvalidRequestError("source.key", "must begin with sources/")

    orders, dead = Orders(), FakeDeadLetters()
    bulk = SqsBulkQueue(orders, queue_url="q.fifo")  # type: ignore[arg-type]
    message = Received("s", source_body("s"), receive_count=10)
    process(
        tiny, [message], store=FakeStore(), queue=FakeQueue(10, dead), reader=Reader({"s": lines(1)}, refuse), bulk=bulk
    )
    assert (orders.sent, [letter.code for letter in dead.letters]) == ([], ["invalid_request"])


def test_a_payload_is_tried_before_its_last_receive_though_fresh_messages_take_all_the_time(tiny: Tiny) -> None:
    clock, store, dead, trail = FakeClock(), FakeStore(), FakeDeadLetters(), MemoryTrail()
    slow(tiny, clock, lambda batch: 13.0 * len(batch))
    texts = ["a", "b", "c", "d", "a b", "a c", "a d", "b c", "b d"]
    for receive in range(1, 11):
        fresh = [Received(f"{receive}.{n}", body(text, prefix=f"{receive}.{n}")) for n, text in enumerate(texts)]
        process(
            tiny,
            [Received("s", source_body("s"), receive_count=receive), *fresh],
            store=store,
            trail=trail,
            queue=FakeQueue(10, dead),
            reader=Reader({"s": lines(1)}),
            deadline=Context(clock).deadline,
        )
    assert dead.letters == []
    assert "d0" in store.ids


def test_letters_of_one_group_are_sent_in_their_order(tiny: Tiny) -> None:
    dead = FakeDeadLetters()
    bad = [Received(f"bad-{n}", "{", receive_count=2, group_id="g") for n in range(9)]
    good = Received("good", body("a"), receive_count=2, group_id="g")
    process(tiny, [*bad, good], store=FakeStore(), queue=FakeQueue(10, dead))
    assert [letter.message_id for letter in dead.letters] == [f"bad-{n}" for n in range(9)]


# Past the end


class Unreachable:
    """SQS behind a wall: every call waits, and fails."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __getattr__(self, _: str) -> Callable[..., Any]:
        def call(**_: object) -> Any:
            self.calls += 1
            self.clock.now += self.seconds
            raise ConnectTimeoutError(endpoint_url="https://sqs")

        return call


def test_a_queue_that_cannot_be_asked_does_not_take_the_function_past_its_end(tiny: Tiny) -> None:
    clock = FakeClock()
    context = Context(clock)
    sqs: Any = Unreachable(clock, 3.0)  # CONVENIENCE's and read_timeout
    receipts = {f"m{n}": ["r"] for n in range(100)}
    queue = SqsSourceQueue(lambda: sqs, QueueFactsReader(lambda: sqs), arn=ARN, receipts=receipts)
    slow(tiny, clock, lambda _: 0.5)
    messages = [Received(f"m{n}", body("a", prefix=f"m{n}"), receive_count=2) for n in range(100)]
    process(tiny, messages, store=FakeStore(), queue=queue, deadline=context.deadline)
    assert clock.now < context.end


def test_a_dead_letter_queue_that_does_not_answer_does_not_take_the_function_past_its_end(tiny: Tiny) -> None:
    clock = FakeClock()
    context = Context(clock)
    sqs: Any = Unreachable(clock, 2.0)  # CONVENIENCE's read_timeout
    queue: Any = FakeQueue(10, SqsDeadLetters(sqs, queue_url="dead"))
    messages = [Received(f"m{n}", body("a", prefix=f"m{n}"), receive_count=10) for n in range(100)]
    process(tiny, messages, store=FakeStore(is_down=True), queue=queue, deadline=context.deadline)
    assert clock.now < context.end


def test_a_state_table_that_does_not_answer_does_not_take_the_function_past_its_end(tiny: Tiny) -> None:
    clock = FakeClock()
    context = Context(clock)
    dynamodb: Any = Unreachable(clock, 4.5)  # two attempts of MARK, and a pause
    trail = DynamoDBTrail(lambda: dynamodb, table="t", space_id="s")
    messages = [Received(f"m{n}", body("a", prefix=f"m{n}"), receive_count=2) for n in range(10)]
    process(tiny, messages, store=FakeStore(), trail=trail, deadline=context.deadline)
    assert clock.now < context.end


def test_no_payload_is_fetched_when_time_is_up(tiny: Tiny) -> None:
    clock = FakeClock()
    context = Context(clock)

    def fetching() -> None:
        clock.now += 5.0

    slow(tiny, clock, lambda _: 52.0)
    reader = Reader({f"s{n}": lines(60) for n in range(10)}, fetching)
    messages = [Received(f"s{n}", source_body(f"s{n}")) for n in range(10)]
    process(tiny, messages, store=FakeStore(), trail=MemoryTrail(), reader=reader, deadline=context.deadline)
    assert clock.now < context.end


def test_a_result_queue_that_does_not_answer_is_given_up(tiny: Tiny) -> None:
    """As the DynamoDB store does: a hundred batches of 10 s each end the function, and all comes again."""
    calls = []

    class Hanging:
        def send_message_batch(self, **_: object) -> Any:
            calls.append(1)
            raise ReadTimeoutError(endpoint_url="https://sqs")

    vector = tiny.engine.vector((1, 3, 2))
    results = [
        EmbeddingResult(
            f"d{n}", 1, "acme", "s", "m", vector=vector, tokens=3, truncated=False, job_id=None, metadata={}
        )
        for n in range(1000)
    ]
    assert vector.shape == (DIMENSION,)
    with pytest.raises(StoreUnavailableError):
        SqsStore(Hanging(), queue_url="results").write(results)  # type: ignore[arg-type]
    assert len(calls) <= 3


# Without bound


def test_what_a_payload_leaves_undone_is_not_kept_line_by_line(tiny: Tiny) -> None:
    payload = lines(50_000)
    tracemalloc.start()
    message = Received("s", source_body("s"))
    process(
        tiny, [message], store=FakeStore(), trail=MemoryTrail(), reader=Reader({"s": payload}), deadline=FakeDeadline(1)
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 64 MiB of such lines are thirty times as many.
    assert peak < 4 * 1024 * 1024


def answer_facts(*, redrive: bool) -> Any:
    policy = json.dumps({"deadLetterTargetArn": f"{ARN}-dead", "maxReceiveCount": 10})
    return {"Attributes": {"VisibilityTimeout": "780", **({"RedrivePolicy": policy} if redrive else {})}}


class Sqs:
    """A source queue whose dead-letter queue is none, or one that the role may not see."""

    def __init__(self, *, redrive: bool) -> None:
        self.redrive = redrive
        self.shown: list[int] = []

    def get_queue_url(self, *, QueueName: str, QueueOwnerAWSAccountId: str) -> Any:  # noqa: N803 - boto3's
        if QueueName.endswith("-dead"):
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetQueueUrl")
        return {"QueueUrl": QueueName}

    def get_queue_attributes(self, **_: object) -> Any:
        return answer_facts(redrive=self.redrive)

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: Sequence[Any]) -> Any:  # noqa: N803
        self.shown += [entry["VisibilityTimeout"] for entry in Entries]
        return {}


def test_without_the_right_to_the_dead_letter_queue_messages_are_still_made_visible() -> None:
    sqs: Any = Sqs(redrive=True)
    queue = SqsSourceQueue(lambda: sqs, QueueFactsReader(lambda: sqs), arn=ARN, receipts={"m": ["r"]})
    queue.show_again(["m"], seconds=0)
    assert sqs.shown == [0]


def test_a_wrong_clock_hides_no_message_for_longer_than_the_queue_does() -> None:
    sqs: Any = Sqs(redrive=True)
    queue = SqsSourceQueue(lambda: sqs, QueueFactsReader(lambda: sqs), arn=ARN, receipts={"m": ["r"]})
    for seconds in (125, 3725, None):
        queue.show_again(["m"], seconds=seconds)
    assert sqs.shown == [125, 780, 780]


def test_a_hopeless_message_of_a_queue_without_redrive_does_not_run_in_a_circle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sqs: Any = Sqs(redrive=False)
    outcome = Outcome((), ("m",), frozenset({"m"}), WorkCounts())
    monkeypatch.setattr(handlers.queue, "_sqs", lambda: sqs)
    monkeypatch.setattr(handlers.queue, "_facts", lambda: QueueFactsReader(lambda: sqs))
    monkeypatch.setattr(handlers.queue, "services", lambda: SimpleNamespace(cache=None))
    monkeypatch.setattr(handlers.queue, "worker", lambda: SimpleNamespace(process=lambda *_, **__: outcome))
    context: Any = Context(FakeClock())
    context.function_name = context.invoked_function_arn = context.aws_request_id = "f"
    context.memory_limit_in_mb = "128"
    record = {"messageId": "m", "receiptHandle": "r", "eventSourceARN": ARN, "body": "{"}
    assert handlers.queue.handler({"Records": [record]}, context) == {"batchItemFailures": [{"itemIdentifier": "m"}]}
    assert 0 not in sqs.shown


@pytest.mark.filterwarnings("ignore:No application metrics")
def test_a_batch_without_failures_asks_sqs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cold start would pay for a client and three calls."""

    def asked() -> Any:
        raise AssertionError("sqs was asked")

    monkeypatch.setattr(handlers.queue, "_sqs", asked)
    monkeypatch.setattr(handlers.queue, "_facts", lambda: QueueFactsReader(asked))
    monkeypatch.setattr(handlers.queue, "services", lambda: SimpleNamespace(cache=None))
    outcome = Outcome((), (), frozenset(), WorkCounts())
    monkeypatch.setattr(handlers.queue, "worker", lambda: SimpleNamespace(process=lambda *_, **__: outcome))
    context: Any = Context(FakeClock())
    context.function_name = context.invoked_function_arn = context.aws_request_id = "f"
    context.memory_limit_in_mb = "128"
    record = {"messageId": "m", "receiptHandle": "r", "eventSourceARN": ARN, "body": "{}"}
    assert handlers.queue.handler({"Records": [record]}, context) == {"batchItemFailures": []}
