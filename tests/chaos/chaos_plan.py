"""What a chaos run sends, and what must have become of it: everything follows from the seed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_POOL = 2_000
_WORDS = (
    *("queue", "worker", "vector", "cache", "token", "batch", "model", "encoder", "index", "search", "ranking"),
    *("document", "message", "retry", "timeout", "region", "bucket", "table", "stream", "archive", "river"),
    *("mountain", "harbour", "lantern", "orchard", "copper", "velvet", "thunder", "meadow", "winter", "signal"),
)
_INVALID_BODIES = (
    "{marker} is not JSON",
    '{{"v": 1, "documents": [{{"id": "{marker}", "text": "   "}}]}}',
    '{{"v": 9, "documents": [{{"id": "{marker}", "text": "another version"}}]}}',
    '{{"v": 1, "documents": [{{"id": "{marker}", "text": "hello"}}], "destination": "nowhere"}}',
    '{{"v": 1, "documents": [{{"id": "{marker}", "text": "hello", "version": -1}}]}}',
    '{{"v": 1, "source": {{"key": "elsewhere/{marker}", "sha256": "' + "0" * 64 + '", "size": 1}}}}',
)
# An endless one costs a whole timeout each time that it is met.
_DEADLY = ("deadly-signal", "deadly-exit", "deadly-crash", "deadly-signal", "deadly-exit", "deadly-endless")


@dataclass(frozen=True, slots=True)
class Written:
    """A document's version that must be written: where, and with which text's vector."""

    destination: str
    text: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A message: what it says, and in which group of a FIFO queue it comes. marker: found in the body of poison."""

    body: str
    group_id: str | None = None
    marker: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Messages in the order of sending, what must be written of them by (id, version), and the markers of poison."""

    messages: Sequence[Planned]
    written: Mapping[tuple[str, int], Written]
    killers: int

    @property
    def markers(self) -> frozenset[str]:
        """The marker of every poisonous message."""
        return frozenset(message.marker for message in self.messages if message.marker is not None)

    @property
    def newest(self) -> dict[str, int]:
        """The highest version of each document."""
        newest: dict[str, int] = {}
        for id_, version in self.written:
            newest[id_] = max(version, newest.get(id_, 0))
        return newest


def standard_plan(count: int, *, poison_share: float, killer_share: float, seed: int) -> Plan:
    """Plan messages of one to three documents; a tenth of the documents come in three versions, out of order."""
    draw = random.Random(seed)
    texts = _texts(draw)
    written: dict[tuple[str, int], Written] = {}
    bodies: list[Planned] = []
    poison = _poison(draw, round(count * poison_share), killer_share)
    while len(bodies) < count - len(poison):
        number = len(bodies)
        destination = ("default", "table")[number % 2]
        versions = draw.sample([1, 2, 3], 3) if draw.random() < 0.05 else [draw.randint(1, 9)]
        ids = [f"d{number}.{place}" for place in range(draw.choice([1, 1, 1, 2, 3]))]
        for version in versions[: count - len(poison) - number]:
            chosen = {id_: draw.choice(texts) for id_ in ids}
            written |= {(id_, version): Written(destination, text) for id_, text in chosen.items()}
            bodies.append(Planned(_body(chosen, version, destination)))
    messages = [*bodies, *poison]
    draw.shuffle(messages)
    return Plan(messages, written, killers=sum("deadly" in message.body for message in poison))


def fifo_plan(groups: int, length: int, *, poison_share: float, killer_share: float, seed: int) -> Plan:
    """Plan groups of messages; a group is one document in as many versions, in order, with poison in between."""
    draw = random.Random(seed)
    texts = _texts(draw)
    poison = iter(_poison(draw, round(groups * length * poison_share), killer_share))
    poisoned = set(draw.sample(range(groups * length), round(groups * length * poison_share)))
    written: dict[tuple[str, int], Written] = {}
    lanes: list[list[Planned]] = []
    for group in range(groups):
        lane = []
        for place in range(length):
            if group * length + place in poisoned:
                bad = next(poison)
                lane.append(Planned(bad.body, f"g{group}", bad.marker))
                continue
            text = draw.choice(texts)
            written[f"g{group}", place + 1] = Written("ordered", text)
            lane.append(Planned(_body({f"g{group}": text}, place + 1, "ordered"), f"g{group}"))
        lanes.append(lane)
    messages = _interleaved(draw, lanes)
    return Plan(messages, written, killers=sum("deadly" in message.body for message in messages))


def killers_plan(batches: int, *, seed: int) -> Plan:
    """Plan batches of ten messages, each with one to three that kill the process."""
    draw = random.Random(seed)
    texts = _texts(draw)
    deadly = iter(_poison(draw, 3 * batches, 1.0))
    written: dict[tuple[str, int], Written] = {}
    messages: list[Planned] = []
    for number in range(batches):
        batch = [next(deadly) for _ in range(draw.randint(1, 3))]
        for place in range(10 - len(batch)):
            text = draw.choice(texts)
            written[f"d{number}.{place}", 1] = Written("table", text)
            batch.append(Planned(_body({f"d{number}.{place}": text}, 1, "table")))
        draw.shuffle(batch)
        messages += batch
    return Plan(messages, written, killers=sum(message.marker is not None for message in messages))


def _interleaved(draw: random.Random, lanes: Sequence[list[Planned]]) -> list[Planned]:
    order = [number for number, lane in enumerate(lanes) for _ in lane]
    draw.shuffle(order)
    heads = [iter(lane) for lane in lanes]
    return [next(heads[number]) for number in order]


def _poison(draw: random.Random, count: int, killer_share: float) -> list[Planned]:
    killers = round(count * killer_share)
    made = []
    for number in range(count):
        marker = f"poison-{number}"
        if number < killers:
            text = f"{_DEADLY[number % len(_DEADLY)]} {draw.choice(_WORDS)}"
            body = json.dumps({"v": 1, "documents": [{"id": marker, "text": text}]})
        else:
            body = _INVALID_BODIES[number % len(_INVALID_BODIES)].format(marker=marker)
        made.append(Planned(body, marker=marker))
    return made


def _body(texts: Mapping[str, str], version: int, destination: str) -> str:
    documents: list[dict[str, Any]] = [{"id": id_, "text": text, "version": version} for id_, text in texts.items()]
    return json.dumps({"v": 1, "documents": documents, "destination": destination})


def _texts(draw: random.Random) -> list[str]:
    """Make texts, each of which comes several times: the cache is to have its share of the work."""
    return sorted({" ".join(draw.choices(_WORDS, k=draw.randint(3, 40))) for _ in range(_POOL)})
