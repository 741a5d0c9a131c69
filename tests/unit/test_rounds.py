"""Rounds that fit the memory and the time left."""

from __future__ import annotations

from unit_fakes import FakeClock, FakeDeadline

from embakery.rounds import Pace


class Left:
    """A deadline that a test moves."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def seconds_left(self) -> float:
        return self.seconds

    def seconds_to_end(self) -> float:
        return self.seconds


def test_rounds_keep_the_order_and_the_budget() -> None:
    assert list(Pace(10).rounds([4, 4, 4, 9, 1, 12, 3], None)) == [[0, 1], [2], [3, 4], [5], [6]]


def test_nothing_makes_no_round() -> None:
    assert list(Pace(10).rounds([], None)) == []


def test_a_text_longer_than_the_budget_has_a_round_of_its_own() -> None:
    assert list(Pace(10).rounds([30, 30], FakeDeadline())) == [[0], [1]]


def test_the_first_text_always_comes_and_nothing_after_it_when_time_is_up() -> None:
    assert list(Pace(8192).rounds([5, 5, 5], Left(-1.0))) == [[0]]


def test_on_a_slow_machine_the_rounds_end_before_the_time_does() -> None:
    clock, left = FakeClock(), Left(10.0)
    sizes = []
    for batch in Pace(8192, clock=clock).rounds([500] * 100, left):
        sizes.append(len(batch))
        clock.now += len(batch)  # 500 tokens a second
        left.seconds -= len(batch)
    # Half of the time left, each time, and no text that takes longer than that.
    assert sizes == [5, 2, 1, 1]
    assert left.seconds == 1.0


def test_what_was_learnt_is_kept_for_the_next_batch() -> None:
    clock = FakeClock()
    pace = Pace(100_000, clock=clock)
    for _ in range(20):
        for _batch in pace.rounds([1000], None):
            clock.now += 0.1  # 10,000 tokens a second
    first = next(pace.rounds([1000] * 30, Left(4.0)))
    assert len(first) == 19  # half of 4 s; what is learnt comes close to what is so


def test_short_rounds_teach_nothing() -> None:
    clock = FakeClock()
    pace = Pace(8192, clock=clock)
    for _batch in pace.rounds([10], None):
        clock.now += 60.0
    assert len(next(pace.rounds([100] * 30, Left(10.0)))) == 25
