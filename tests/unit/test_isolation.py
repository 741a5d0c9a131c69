"""Documents that end the process: simulated as an exception that nothing catches, with marks and queue outliving it."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from unit_fakes import FakeDeadLetters, FakeDeadline, FakeQueue, FakeStore, Killed, MemoryTrail, Tiny, make_tiny

from embakery.delivery import Received
from embakery.isolation import Mark, Markbook, Span, State, spans
from embakery.texts import TokenIds
from embakery.vectors import Vectors
from embakery.work import Resources
from embakery.worker import Outcome, Worker

MAX_RECEIVES = 10


@dataclass
class World:
    """A queue with its dead-letter queue, and a worker that dies of every text with `e` in it."""

    tiny: Tiny
    messages: dict[str, Received]
    store: FakeStore = field(default_factory=FakeStore)
    trail: MemoryTrail = field(default_factory=MemoryTrail)
    dead_letters: FakeDeadLetters = field(default_factory=FakeDeadLetters)
    receives: Counter[str] = field(default_factory=Counter)
    moved_by_sqs: list[str] = field(default_factory=list)
    questions: int | None = None

    def __post_init__(self) -> None:
        encode = self.tiny.engine.encode

        def fatal(batch: Sequence[TokenIds]) -> Vectors:
            if any(7 in ids for ids in batch):
                raise Killed
            return encode(batch)

        self.tiny.engine.encode = fatal  # type: ignore[method-assign]

    def deliver(self, names: Sequence[str]) -> Outcome | None:
        """Deliver a batch; None if the process was killed by it."""
        batch = []
        for name in names:
            self.receives[name] += 1
            batch.append(replace(self.messages[name], receive_count=self.receives[name]))
        queue = FakeQueue(MAX_RECEIVES, self.dead_letters)
        worker = Worker(Resources(self.tiny.embedder, None, {"default": lambda: self.store}, "acme"), trail=self.trail)
        outcome = None
        with contextlib.suppress(Killed):
            outcome = worker.process(batch, queue=queue, deadline=FakeDeadline(self.questions))
        done = {name for deleted in queue.deleted for name in deleted}
        if outcome is not None:
            done |= set(names) - set(outcome.failed_ids)
        for name in done:
            self.messages.pop(name, None)
        return outcome

    def run(self, *, seed: int = 0) -> None:
        """Deliver until the queue is empty, as SQS does: what was received too often goes to the dead-letter queue."""
        draw = random.Random(seed)
        while self.messages:
            names = list(self.messages)
            if not any(message.group_id for message in self.messages.values()):
                draw.shuffle(names)
            for batch in (names[start : start + 10] for start in range(0, len(names), 10)):
                over = [name for name in batch if self.receives[name] >= MAX_RECEIVES]
                self.moved_by_sqs += over
                for name in over:
                    del self.messages[name]
                if here := [name for name in batch if name in self.messages]:
                    self.deliver(here)

    @property
    def dead(self) -> set[str]:
        return {letter.message_id for letter in self.dead_letters.letters} | set(self.moved_by_sqs)


def body(*texts: str, prefix: str) -> str:
    documents = [{"id": f"{prefix}.{number}", "text": text} for number, text in enumerate(texts)]
    return json.dumps({"v": 1, "documents": documents})


def world(tiny: Tiny, bodies: dict[str, str], *, groups: dict[str, str] | None = None) -> World:
    groups = groups or {}
    return World(tiny, {name: Received(name, text, group_id=groups.get(name)) for name, text in bodies.items()})


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "artifact")


# Spans


NOW = 1000.0
KILLED = Mark(State.BEGUN, until=NOW)
DONE, SPLIT = Mark(State.DONE), Mark(State.SPLIT)


def test_without_marks_a_message_is_one_unit() -> None:
    assert spans(0, 10, {}, now=NOW) == [Span(0, 10)]


def test_what_was_done_is_not_done_again() -> None:
    assert spans(0, 10, {"0-10": DONE}, now=NOW) == []
    left = spans(0, 3, {"0-3": SPLIT, "1-2": DONE}, now=NOW)
    assert left == [Span(0, 1, is_part=True), Span(2, 3, is_part=True)]


def test_what_was_in_hand_at_a_kill_is_cut_and_suspect() -> None:
    cut = spans(0, 3, {"0-3": KILLED, "2-3": KILLED}, now=NOW)
    assert [(span.unit, span.own, span.sightings) for span in cut] == [("0-1", 0, 1), ("1-2", 0, 1), ("2-3", 1, 2)]
    assert {(span.is_suspect, span.is_part) for span in cut} == {(True, True)}
    assert [span.is_poison for span in cut] == [False, False, True]


def test_what_another_invocation_may_have_in_hand_still_is_neither() -> None:
    in_hand = Mark(State.BEGUN, until=NOW + 0.1)
    assert spans(0, 3, {"0-3": in_hand}, now=NOW) == [Span(0, 3)]
    trail = MemoryTrail({"m": {"0-3": in_hand}})
    assert [Markbook(trail, ["m"], now=now, until=0).has_suspects("m") for now in (NOW, NOW + 1)] == [False, True]


def test_what_was_being_written_at_a_kill_is_suspect_but_never_poison() -> None:
    writing = Mark(State.WRITING, until=NOW)
    (span,) = spans(0, 1, {"0-1": writing}, now=NOW)
    assert (span.is_suspect, span.own, span.sightings) == (True, 0, 0)
    assert len(spans(0, 3, {"0-3": writing}, now=NOW)) == 3


@pytest.mark.parametrize(
    ("mark", "poison"), [(KILLED, False), (Mark(State.BEGUN, 1, NOW), True), (Mark(State.FREE), False)]
)
def test_one_item_is_poison_only_when_seen_twice(mark: Mark, poison: bool) -> None:
    assert [span.is_poison for span in spans(0, 1, {"0-1": mark}, now=NOW)] == [poison]


def test_a_large_unit_is_cut_into_fifty() -> None:
    cut = spans(0, 1000, {"0-1000": KILLED}, now=NOW)
    assert (len(cut), cut[0].unit) == (50, "0-20")
    assert len(spans(0, 1000, {"0-1000": KILLED, "20-40": KILLED}, now=NOW)) == 49 + 20


# Batches


def test_fresh_messages_leave_no_marks(tiny: Tiny) -> None:
    here = world(tiny, {"m0": body("a", prefix="m0"), "m1": body("b", prefix="m1")})
    here.run()
    assert (here.trail.writes, here.store.writes) == (0, 1)


@pytest.mark.parametrize("killers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(40))
def test_killers_end_in_the_dead_letter_queue_alone(tiny: Tiny, killers: int, seed: int) -> None:
    draw = random.Random(seed)
    texts = ["e"] * killers + [" ".join(draw.choices("abcd", k=draw.randint(1, 6))) for _ in range(10 - killers)]
    draw.shuffle(texts)
    names = [f"m{number}" for number in range(10)]
    here = world(tiny, {name: body(text, prefix=name) for name, text in zip(names, texts, strict=True)})
    here.run(seed=seed)
    guilty = {name for name, text in zip(names, texts, strict=True) if "e" in text}
    assert here.dead == guilty
    assert here.moved_by_sqs == []
    assert {letter.code for letter in here.dead_letters.letters} == {"poison"}
    assert sorted(here.store.ids) == sorted(f"{name}.0" for name in set(names) - guilty)


@pytest.mark.parametrize("seed", range(20))
def test_in_fifo_groups_too_and_followers_keep_their_order(tiny: Tiny, seed: int) -> None:
    draw = random.Random(seed)
    names = [f"m{number}" for number in range(10)]
    groups = {name: draw.choice("xyz") for name in names}
    killers = set(draw.sample(names, draw.randint(1, 3)))
    bodies = {name: body("e" if name in killers else "a b", prefix=name) for name in names}
    here = world(tiny, bodies, groups=groups)
    here.run()
    assert here.dead == killers
    for group in "xyz":
        written = [name.partition(".")[0] for name in here.store.ids if groups[name.partition(".")[0]] == group]
        assert written == [name for name in names if groups[name] == group and name not in killers]


def test_a_killer_among_a_messages_documents_leaves_its_neighbours_written(tiny: Tiny) -> None:
    here = world(tiny, {"m0": body("a", "b", "e", "a b c", "c", prefix="m0"), "m1": body("a", "d", prefix="m1")})
    here.run()
    assert here.dead == {"m0"}
    assert set(here.store.ids) == {"m0.0", "m0.1", "m0.3", "m0.4", "m1.0", "m1.1"}
    (letter,) = here.dead_letters.letters
    assert (letter.code, letter.reason.partition(":")[0]) == ("poison", "documents[2]")


def test_a_thousand_messages_with_killers_and_bad_ones(tiny: Tiny) -> None:
    draw = random.Random(7)
    names = [f"m{number}" for number in range(1000)]
    kinds = {name: draw.choices(["good", "killer", "bad"], [95, 1, 4])[0] for name in names}
    texts = {"good": "a b", "killer": "a e", "bad": " "}
    here = world(tiny, {name: body(texts[kinds[name]], prefix=name) for name in names})
    here.run(seed=7)
    assert here.dead == {name for name in names if kinds[name] != "good"}
    assert set(here.store.ids) == {f"{name}.0" for name in names if kinds[name] == "good"}
    # At the end the killers are among themselves, and each takes its batch down twice: some run out of receives.
    assert len(here.moved_by_sqs) <= 5


def test_a_message_is_settled_before_the_next_is_begun(tiny: Tiny) -> None:
    here = world(tiny, {"m0": body("a", prefix="m0"), "m1": body("a b c e", prefix="m1"), "bad": "{"})
    here.receives.update(("m0", "m1", "bad"))
    assert here.deliver(["m1", "bad", "m0"]) is None
    assert list(here.messages) == ["m1"]
    assert (here.store.ids, here.dead) == (["m0.0"], {"bad"})


def test_an_innocent_in_hand_at_one_kill_is_tried_again_and_written(tiny: Tiny) -> None:
    here = world(tiny, {"m0": body("a", prefix="m0")})
    here.trail.write("m0", "0-1", Mark(State.BEGUN))
    here.receives["m0"] = 2
    here.run()
    assert (here.store.ids, here.dead) == (["m0.0"], set())


def test_a_store_that_is_down_takes_nothing_to_the_dead_letter_queue_before_the_last_receive(tiny: Tiny) -> None:
    here = world(tiny, {"m0": body("a", prefix="m0")})
    here.store.is_down = True
    for _ in range(MAX_RECEIVES - 1):
        outcome = here.deliver(["m0"])
        assert outcome is not None
        assert outcome.failed_ids == ("m0",)
    assert here.dead == set()
    here.deliver(["m0"])
    (letter,) = here.dead_letters.letters
    assert (letter.code, letter.receive_count) == ("store_unavailable", MAX_RECEIVES)
    assert letter.reason.endswith(": down")


def test_a_dead_letter_that_is_not_taken_stays_in_the_queue(tiny: Tiny) -> None:
    here = world(tiny, {"bad": "{", "m0": body("a", prefix="m0")})
    here.dead_letters = FakeDeadLetters(refused_ids=frozenset({"bad"}))
    outcome = here.deliver(["bad", "m0"])
    assert outcome is not None
    assert (outcome.failed_ids, outcome.hopeless_ids) == (("bad",), frozenset({"bad"}))
    outcome = here.deliver(["bad"])
    assert outcome is not None
    assert outcome.failed_ids == ("bad",)


def test_bad_items_are_not_forgotten_when_their_message_comes_again(tiny: Tiny) -> None:
    """A dead-letter queue that refuses, and good neighbours that are written at each receive."""
    here = world(tiny, {"m0": body("a", " ", prefix="m0")})
    here.dead_letters = FakeDeadLetters(refused_ids=frozenset({"m0"}))
    for _ in range(4):
        outcome = here.deliver(["m0"])
        assert outcome is not None
        assert outcome.failed_ids == ("m0",)


def test_out_of_time_the_rest_comes_again_and_a_long_message_is_cut(tiny: Tiny) -> None:
    here = world(tiny, {"m0": body(*"abc", prefix="m0"), "m1": body(*"abc", prefix="m1")})
    here.receives.update(("m0", "m1"))
    here.questions = 0
    # One item each time; the first of each message once more, since it was cut only after it.
    for _ in range(8):
        here.deliver(list(here.messages))
    assert here.messages == {}
    assert set(here.store.ids) == {f"m{number}.{place}" for number in range(2) for place in range(3)}
