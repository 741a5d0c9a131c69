"""Documents in messages: never too large, never lost, the same every time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cli.inputs.checking import Checked, document_json
from cli.packing import MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES, Envelope, Groups, Packed, Packer
from embakery.errors import RequestTooLargeError
from embakery.messages import Document, EmbedMessage, parse_message
from embakery.sources import Source
from embakery.texts import TextLimits


def doc(identity: str, text: str = "t", **more: Any) -> Checked:
    return Checked(identity, identity, 1, document_json(Document(identity, text)), **more)


def describe(content: bytes) -> Source:
    if len(content) > MAX_PAYLOAD_BYTES:
        raise RequestTooLargeError("source.size", "too large")
    return Source("k", hashlib.sha256(content).hexdigest(), len(content))


def pack(rows: Iterable[Checked], **options: Any) -> tuple[list[Packed], list[str]]:
    rejected: list[str] = []
    packer = Packer(options.pop("envelope", Envelope()), **options)
    return list(packer.pack(rows, lambda where, _: rejected.append(where))), rejected


def ids(message: Packed) -> list[str]:
    if message.payload is not None:
        return [json.loads(line)["id"] for line in message.payload.splitlines()]
    return [document["id"] for document in json.loads(message.body)["documents"]]


def test_a_message_says_all_that_the_worker_reads() -> None:
    envelope = Envelope("query", 'a "destination"', "job ☃")
    ((message,), _) = pack([doc("a"), doc("b")], envelope=envelope)
    assert parse_message(message.body, limits=TextLimits()) == EmbedMessage(
        (Document("a", "t"), Document("b", "t")), "query", 'a "destination"', "job ☃"
    )
    assert (message.documents, message.size) == (2, len(message.body.encode()))


def test_by_count() -> None:
    messages, _ = pack([doc(str(n)) for n in range(25)], documents=10)
    assert [message.documents for message in messages] == [10, 10, 5]
    assert [identity for message in messages for identity in ids(message)] == [str(n) for n in range(25)]


@given(st.lists(st.integers(1, 1_100_000), max_size=12), st.sampled_from([None, Groups(2), Groups(name="one")]))
def test_by_bytes_as_sqs_counts_them(sizes: list[int], groups: Groups | None) -> None:
    documents = [doc(f"d{n}", "x" * size) for n, size in enumerate(sizes)]
    messages, rejected = pack(documents, groups=groups)
    assert all(message.size <= MAX_MESSAGE_BYTES for message in messages)
    sent = [identity for message in messages for identity in ids(message)]
    assert sorted(sent + rejected) == sorted(document.id for document in documents)
    assert all(len(document.content) > MAX_MESSAGE_BYTES - 100 for document in documents if document.id in rejected)


def test_a_message_is_filled_to_the_last_byte() -> None:
    room = MAX_MESSAGE_BYTES - len(Envelope().around([document_json(Document("a", ""))]))
    ((message,), rejected) = pack([doc("a", "x" * room)])
    assert (message.size, rejected) == (MAX_MESSAGE_BYTES, [])
    assert pack([doc("a", "x" * (room + 1))])[1] == ["a"]


def test_one_large_document_goes_by_claim_check() -> None:
    documents = [doc("a"), doc("large", "x" * MAX_MESSAGE_BYTES), doc("b"), doc("huge", "x" * MAX_PAYLOAD_BYTES)]
    messages, rejected = pack(documents, claim_check="auto", describe=describe)
    assert ([ids(message) for message in messages], rejected) == ([["large"], ["a", "b"]], ["huge"])
    payload = messages[0].payload
    assert payload is not None
    source = {"key": "k", "sha256": hashlib.sha256(payload).hexdigest(), "size": len(payload)}
    assert json.loads(messages[0].body)["source"] == source
    assert pack(documents[:2], claim_check="never", describe=describe)[1] == ["large"]


def test_claim_checks_always_are_bounded_by_count_and_bytes() -> None:
    small, _ = pack([doc(str(n)) for n in range(250)], documents=100, claim_check="always", describe=describe)
    assert [message.documents for message in small] == [100, 100, 50]
    large, _ = pack(
        [doc(str(n), "x" * 7_000_000) for n in range(5)], documents=100, claim_check="always", describe=describe
    )
    assert [message.documents for message in large] == [2, 2, 1]


def test_what_waits_in_all_groups_is_bounded() -> None:
    documents = (doc(str(n), "x" * 900_000) for n in range(200))
    packer = Packer(Envelope(), groups=Groups(1000))
    most = 0
    for _ in packer.pack(documents, lambda *_: None):
        most = max(most, packer._total)
    assert 30_000_000 < most < 34_000_000


def test_an_id_is_always_in_one_group_and_in_order() -> None:
    request = Checked("w", "d3#0", 1, '{"custom_id":"d3"}', is_message=True)
    documents = [doc(f"d{n % 7}", f"{n}") for n in range(70)]
    documents[35:35] = [request, doc("d3", "y" * MAX_MESSAGE_BYTES)]
    messages, _ = pack(documents, documents=4, groups=Groups(3), claim_check="auto", describe=describe)
    assert {Groups(3).of(name) for name in ("d3", "d3#0", "d3#12")} == {Groups(3).of("d3")}
    place = [message.body for message in messages].index('{"custom_id":"d3"}')
    of_d3 = [message for message in messages if message.group == Groups(3).of("d3")]
    before = of_d3[: of_d3.index(messages[place])]
    assert sum(ids(message).count("d3") for message in before) == 5
    assert ids(of_d3[len(before) + 1]) == ["d3"]
    assert pack(documents, documents=4, groups=Groups(3), claim_check="auto", describe=describe)[0] == messages


def test_requests_of_openai_batch_files_are_alone_but_in_payloads() -> None:
    rows = [doc("a"), Checked("w", "r#0", 1, '{"custom_id":"r"}', documents=3, is_message=True), doc("b")]
    messages, _ = pack(rows, claim_check="auto", describe=describe)
    assert (messages[0].body, messages[0].documents) == ('{"custom_id":"r"}', 3)
    assert ids(messages[1]) == ["a", "b"]
    (message,), _ = pack(rows, documents=100, claim_check="always", describe=describe)
    assert message.payload == b'{"id":"a","text":"t"}\n{"custom_id":"r"}\n{"id":"b","text":"t"}\n'
    assert message.documents == 5
    large = Checked("w", "r", 1, json.dumps({"custom_id": "x" * MAX_MESSAGE_BYTES}), is_message=True)
    assert pack([large])[1] == ["w"]
    (message,), _ = pack([large], claim_check="auto", describe=describe)
    assert message.payload is not None
