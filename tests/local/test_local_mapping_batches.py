"""How batches form: by size, by window, by payload. A window of a minute that closes at once was closed by the rest."""

from __future__ import annotations

import time

from local_fakes import FakeFunction, FakeQueue, eventually, running

FOR_EVER = 60.0


def test_without_a_window_what_is_there_goes_at_once() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send("a", "b", "c")
    with running(queue, function):
        eventually(lambda: len(queue.deleted) == 3, seconds=5)
    assert function.batches == [["a", "b", "c"]]
    assert queue.requested[0] == 10


def test_a_batch_over_ten_takes_several_receives_within_the_window() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send(*(f"m{number}" for number in range(25)))
    with running(queue, function, batch_size=25, batching_window_seconds=FOR_EVER):
        eventually(lambda: len(queue.deleted) == 25)
    assert [len(batch) for batch in function.batches] == [25]
    assert queue.requested[:3] == [10, 10, 5]


def test_a_full_batch_closes_the_window() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send("a")
    with running(queue, function, batch_size=3, batching_window_seconds=FOR_EVER):
        eventually(lambda: 2 in queue.requested)
        assert function.batches == []
        queue.send("b", "c", "d")
        eventually(lambda: queue.deleted == ["a", "b", "c"])
        assert function.batches == [["a", "b", "c"]]


def test_the_window_closes_with_what_came() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send("a")
    with running(queue, function, batching_window_seconds=0.3):
        eventually(lambda: 9 in queue.requested)
        queue.send("b")
        eventually(lambda: len(queue.deleted) == 2)
    assert function.batches == [["a", "b"]]


def test_the_window_starts_with_the_first_message() -> None:
    delivered: list[float] = []
    queue, function = FakeQueue(), FakeFunction(lambda _: delivered.append(time.monotonic()))
    with running(queue, function, batching_window_seconds=0.5):
        # Several polls that find nothing, each longer than it would take the window to pass.
        eventually(lambda: queue.requested.count(10) >= 4)
        sent = time.monotonic()
        queue.send("a")
        eventually(lambda: queue.deleted == ["a"])
    assert delivered[0] - sent >= 0.5


def test_six_megabytes_close_the_window_and_the_rest_opens_the_next() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send(*"abcdefgh", body="x" * 1_000_000)
    with running(queue, function, batching_window_seconds=FOR_EVER) as mapping:
        eventually(lambda: len(queue.deleted) == 6)
        assert function.batches == [list("abcdef")]
        # The two in hand wait for their own window, or the end.
        mapping.request_stop()
        eventually(lambda: len(queue.deleted) == 8)
    assert function.batches == [list("abcdef"), ["g", "h"]]


def test_without_a_window_a_batch_stays_within_the_payload_limit_too() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send(*"abcdefgh", body="x" * 1_000_000)
    with running(queue, function):
        eventually(lambda: len(queue.deleted) == 8)
    assert function.batches == [list("abcdef"), ["g", "h"]]


def test_a_failed_poll_within_the_window_delivers_what_is_in_hand() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send("a")
    with running(queue, function, batching_window_seconds=FOR_EVER) as mapping:
        eventually(lambda: 9 in queue.requested)
        queue.failing_receives = 1
        eventually(lambda: queue.deleted == ["a"])
        # It was no failed poll: there was a batch.
        assert mapping.statistics.failed_polls == 0
