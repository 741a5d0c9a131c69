"""Sending: what SQS does not take is sent again, what it will never take is named, and a stop loses nothing."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from cli import sender
from cli.journal import State
from cli.packing import Packed
from cli.sender import Events, Sender, send_documents
from cli.signals import Interrupted, Stop
from embakery.errors import InvalidRequestError, RequestTooLargeError, StoreUnavailableError


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_FIRST_PAUSE_SECONDS", 0.0)


def error(code: str, status: int) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "SendMessageBatch")


class Queue:
    """Takes every message, but for what `refuse` says of a body on its nth call: a code, after `sender:` if ours."""

    def __init__(self, refuse: Callable[[str, int], str | None] = lambda *_: None) -> None:
        self.bodies: list[str] = []
        self.batches: list[list[Any]] = []
        self._refuse = refuse

    def send_message_batch(self, *, QueueUrl: str, Entries: list[Any]) -> Any:  # noqa: N803 - boto3's names
        self.batches.append(Entries)
        answer: dict[str, list[Any]] = {"Successful": [], "Failed": []}
        for entry in Entries:
            code = self._refuse(entry["MessageBody"], len(self.batches))
            if code is None:
                self.bodies.append(entry["MessageBody"])
                answer["Successful"].append({"Id": entry["Id"]})
            else:
                ours = code.startswith("sender:")
                answer["Failed"].append({"Id": entry["Id"], "SenderFault": ours, "Code": code.removeprefix("sender:")})
        return answer


class Failing(Queue):
    """A queue that fails whole calls first."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self._errors = list(errors)

    def send_message_batch(self, **request: Any) -> Any:
        if self._errors:
            raise self._errors.pop(0)
        return super().send_message_batch(**request)


def messages(count: int) -> list[Packed]:
    return [Packed(f"m{n}", 2) for n in range(count)]


def send(queue: Any, what: Sequence[Packed], *, url: str = "q", **more: Any) -> None:
    Sender(queue, url, more.pop("events", Events()), **more).send(what)


def test_by_tens_and_by_a_mebibyte() -> None:
    queue = Queue()
    send(queue, [*messages(25), Packed("x" * 600_000, 1), Packed("y" * 600_000, 1)])
    assert [len(batch) for batch in queue.batches] == [10, 10, 6, 1]


def test_what_was_not_taken_is_sent_again_and_only_that() -> None:
    queue = Queue(lambda body, call: "InternalError" if body in ("m3", "m7") and call < 3 else None)
    sent: list[Packed] = []
    send(queue, messages(12), events=Events(sent.append))
    assert [len(batch) for batch in queue.batches] == [10, 2, 2, 2]
    assert Counter(queue.bodies) == Counter(f"m{n}" for n in range(12)) == Counter(message.body for message in sent)


def test_what_is_refused_for_good_is_named_and_not_sent_again() -> None:
    queue = Queue(lambda body, _: "sender:InvalidMessageContents" if body == "m3" else None)
    refused: list[tuple[str, str]] = []
    state = State()
    send(
        queue,
        messages(12),
        events=Events(refused=lambda message, code: refused.append((message.body, code))),
        state=state,
    )
    assert (refused, len(queue.batches)) == ([("m3", "InvalidMessageContents")], 2)
    assert (state.messages, state.documents, state.left, state.done) == (11, 22, set(), True)


@pytest.mark.parametrize(
    "passing",
    [error("ThrottlingException", 400), error("x", 503), error("x", 429), EndpointConnectionError(endpoint_url="x")],
)
def test_what_may_pass_is_waited_for(passing: Exception) -> None:
    queue = Failing(passing, passing)
    send(queue, messages(3))
    assert queue.bodies == ["m0", "m1", "m2"]
    with pytest.raises(StoreUnavailableError, match="gave up after 9 tries"):
        send(Failing(*[passing] * 9), messages(3))


@pytest.mark.parametrize("final", [error("AccessDenied", 403), error("QueueDoesNotExist", 400), NoCredentialsError()])
def test_what_will_not_pass_is_not_waited_for(final: Exception) -> None:
    queue = Failing(final)
    with pytest.raises(type(final)):
        send(queue, messages(3))
    assert queue.bodies == []


def test_patience_with_single_messages_ends_too_and_the_rest_can_go_on() -> None:
    state, records = State(), []
    broken = Queue(lambda body, _: "InternalError" if body == "m3" else None)
    with pytest.raises(StoreUnavailableError, match="sqs did not take 1 messages: InternalError"):
        send(broken, messages(25), state=state, record=lambda: records.append(state.to_json()))
    assert records[-1]["left"] == [3]
    healthy = Queue()
    send(healthy, messages(25), state=State.from_json(records[-1]))
    assert broken.bodies + healthy.bodies == [f"m{n}" for n in (0, 1, 2, 4, 5, 6, 7, 8, 9, 3, *range(10, 25))]


@pytest.mark.parametrize("seed", range(50))
def test_wherever_it_stops_the_next_run_goes_on_there(seed: int) -> None:
    """Stopped at random, with failures at random, resumed from what was recorded: each message is taken once."""
    chance = random.Random(seed)
    lines: list[dict[str, Any]] = [State().to_json()]
    queue = Queue(lambda *_: "InternalError" if chance.random() < 0.2 else None)
    while not lines[-1].get("done"):
        with contextlib.suppress(Interrupted, StoreUnavailableError):
            stopped_at_random(queue, State.from_json(lines[-1]), lines, chance)
    assert Counter(queue.bodies) == Counter(f"m{n}" for n in range(43))
    assert (lines[-1]["messages"], lines[-1]["documents"]) == (43, 86)


def stopped_at_random(queue: Queue, state: State, lines: list[dict[str, Any]], chance: random.Random) -> None:
    stop = Stop()

    def record() -> None:
        lines.append(state.to_json())
        stop._requested = chance.random() < 0.3

    send(queue, messages(43), state=state, record=record, stop=stop)


@pytest.mark.parametrize("other", [messages(9), [*messages(5), Packed("else", 1), *messages(30)[6:]]])
def test_other_messages_than_last_time_are_noticed_before_anything_is_sent(other: list[Packed]) -> None:
    state = State()
    send(Queue(), messages(20), state=state)
    queue = Queue()
    with pytest.raises(InvalidRequestError, match="are not those that the run which did not end had sent"):
        send(queue, other, state=replace(state, done=False, left={2}))
    assert queue.bodies == []


def test_a_fifo_batch_never_holds_a_group_twice() -> None:
    queue = Queue()
    send(queue, [Packed(f"m{n}", 1, group=f"g{n % 4}") for n in range(10)], url="q.fifo")
    assert [[entry["MessageGroupId"] for entry in batch] for batch in queue.batches] == [
        ["g0", "g1", "g2", "g3"],
        ["g0", "g1", "g2", "g3"],
        ["g0", "g1"],
    ]
    names = {entry["MessageDeduplicationId"] for batch in queue.batches for entry in batch}
    assert names == {hashlib.sha256(f"m{n}".encode()).hexdigest() for n in range(10)}


def test_payloads_are_kept_before_their_messages_go() -> None:
    order: list[str] = []
    queue = Queue(lambda body, _: order.append(body))
    failures = [StoreUnavailableError("s3")]

    def put(payload: bytes) -> None:
        if failures:
            raise failures.pop()
        order.append(payload.decode())

    send(queue, [Packed("a", 1), Packed("b", 1, payload=b"payload of b")], put=put)
    assert order == ["payload of b", "a", "b"]


def test_documents_as_they_are() -> None:
    queue = Queue()
    steps: list[int] = []
    documents = [{"id": f"d{n}", "text": "\uffff"} for n in range(25)]
    client: Any = queue
    assert send_documents(client, "q", documents, destination="table", job_id="j", on_sent=steps.append) == 25
    assert steps == [10, 10, 5]
    assert queue.bodies[2].endswith('],"input_type":"document","destination":"table","job_id":"j"}')
    assert '"\\uffff"' in queue.bodies[0]
    with pytest.raises(RequestTooLargeError, match=r"documents\[0\]: .* bytes, a message holds 1048576"):
        send_documents(client, "q", [{"id": "a", "text": "x" * 1_048_576}])
    never: Any = Queue(lambda *_: "sender:Bad")
    with pytest.raises(StoreUnavailableError, match="refused a message of 1 documents: Bad"):
        send_documents(never, "q", documents[:1])
