"""Messages whose documents lie elsewhere: read in parts, marked as they go, handed over where there are too many."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from unit_fakes import FakeDeadline, FakeQueue, FakeStore, Killed, MemoryTrail, Tiny, make_tiny

from embakery.delivery import Received
from embakery.errors import InvalidRequestError, StoreUnavailableError
from embakery.opened import SourcePolicy
from embakery.sources import Source
from embakery.work import Resources
from embakery.worker import Outcome, Worker

SHA256 = "ab" * 32


@dataclass
class FakeReader:
    """Payloads by key; a missing one is what `ClaimCheck` says of a missing object."""

    payloads: dict[str, Sequence[bytes]]
    is_down: bool = False
    opened: int = 0

    @contextlib.contextmanager
    def lines(self, source: Source) -> Iterator[Sequence[bytes]]:
        self.opened += 1
        if self.is_down:
            raise StoreUnavailableError("down")
        if source.key not in self.payloads:
            raise InvalidRequestError("source.key", "no such object")
        yield self.payloads[source.key]


@dataclass
class FakeBulk:
    orders: list[tuple[str, str, str, str, str | None]] = field(default_factory=list)
    is_down: bool = False

    def hand_over(
        self, source: Source, *, message_id: str, input_type: str, destination: str, job_id: str | None
    ) -> None:
        if self.is_down:
            raise StoreUnavailableError("the bulk queue took no order")
        self.orders.append((source.key, message_id, input_type, destination, job_id))


@dataclass
class Place:
    tiny: Tiny
    reader: FakeReader
    bulk: FakeBulk | None = None
    store: FakeStore = field(default_factory=FakeStore)
    trail: MemoryTrail = field(default_factory=MemoryTrail)

    def process(self, *keys: str, questions: int | None = None, receives: int = 1) -> Outcome:
        bulk = self.bulk
        policy = SourcePolicy(lambda: self.reader, None if bulk is None else lambda: bulk, max_documents=120)
        resources = Resources(self.tiny.embedder, None, {"default": lambda: self.store}, "acme")
        messages = [Received(key, body(key), receive_count=receives) for key in keys]
        self.queue = FakeQueue()
        return Worker(resources, policy, self.trail).process(
            messages, queue=self.queue, deadline=FakeDeadline(questions)
        )


def body(key: str, **more: object) -> str:
    return json.dumps({"v": 1, "source": {"key": key, "sha256": SHA256, "size": 100}, **more})


def lines(count: int, text: str = "a b") -> list[bytes]:
    return [json.dumps({"id": f"d{number}", "text": text}).encode() for number in range(count)]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "artifact")


def test_the_documents_of_a_payload_are_written_some_at_a_time(tiny: Tiny) -> None:
    here = Place(tiny, FakeReader({"s": lines(120)}))
    outcome = here.process("s")
    assert outcome.failed_ids == ()
    assert (here.store.writes, here.store.ids) == (3, [f"d{number}" for number in range(120)])
    assert here.queue.deleted == [["s"]]


def test_out_of_time_it_goes_on_where_it_was_without_a_cache(tiny: Tiny) -> None:
    here = Place(tiny, FakeReader({"s": lines(120)}))
    writes = []
    for receive in range(1, 4):
        # Asked before each round and before each part but the first.
        outcome = here.process("s", questions=1, receives=receive)
        writes.append(len(here.store.ids))
    assert writes == [50, 100, 120]
    assert outcome.failed_ids == ()


def test_bad_lines_fail_by_number_and_harm_no_neighbour(tiny: Tiny) -> None:
    here = Place(tiny, FakeReader({"s": [*lines(2), b"{", b'{"id": "x", "text": " "}', *lines(60)[2:]]}))
    outcome = here.process("s")
    assert (outcome.failed_ids, outcome.hopeless_ids) == (("s",), frozenset({"s"}))
    assert [str(failure.error) for failure in outcome.failures] == [
        "source.lines[2]: is not valid JSON at character 1",
        "source.lines[3].text: must not be empty or blank",
    ]
    assert len(here.store.ids) == 60


def test_a_payload_that_is_not_there_can_never_succeed_and_one_that_cannot_be_read_now_may(tiny: Tiny) -> None:
    here = Place(tiny, FakeReader({}))
    assert here.process("s").hopeless_ids == {"s"}
    here.reader.is_down = True
    outcome = here.process("s")
    assert (outcome.failed_ids, outcome.hopeless_ids) == (("s",), frozenset())


def test_a_deployment_without_a_bucket_says_so(tiny: Tiny) -> None:
    resources = Resources(tiny.embedder, None, {"default": FakeStore}, "acme")
    outcome = Worker(resources).process([Received("s", body("s"))], queue=FakeQueue(), deadline=FakeDeadline())
    assert "EMBAKERY_SOURCE_BUCKET" in str(outcome.failures[0].error)


def test_too_many_documents_are_handed_over_and_not_embedded(tiny: Tiny) -> None:
    here = Place(tiny, FakeReader({"small": lines(120), "large": lines(121)}), FakeBulk())
    outcome = here.process("small", "large")
    assert outcome.failed_ids == ()
    assert here.bulk is not None
    assert here.bulk.orders == [("large", "large", "document", "default", None)]
    assert len(here.store.ids) == 120
    assert outcome.counts.handed_over == 1
    assert sorted(here.queue.deleted) == [["large"], ["small"]]


def test_a_hand_over_that_fails_leaves_its_message_in_the_queue(tiny: Tiny) -> None:
    here = Place(tiny, FakeReader({"large": lines(121)}), FakeBulk(is_down=True))
    outcome = here.process("large")
    assert (outcome.failed_ids, outcome.hopeless_ids, here.queue.deleted) == (("large",), frozenset(), [])


def test_a_killer_among_the_lines_is_found_and_the_others_are_written(tiny: Tiny) -> None:
    payload = lines(120)
    payload[70] = json.dumps({"id": "killer", "text": "e"}).encode()
    here = Place(tiny, FakeReader({"s": payload}))
    encode = tiny.engine.encode

    def fatal(batch: Sequence[tuple[int, ...]]) -> object:
        if any(7 in ids for ids in batch):
            raise Killed
        return encode(batch)

    tiny.engine.encode = fatal  # type: ignore[assignment, method-assign]
    kills = 0
    for receive in range(1, 10):
        try:
            outcome = here.process("s", receives=receive)
        except Killed:
            kills += 1
        else:
            break
    assert kills == 2
    assert [str(failure.error).partition(":")[0] for failure in outcome.failures] == ["source.lines[70]"]
    assert outcome.hopeless_ids == {"s"}
    assert len(set(here.store.ids)) == 119
