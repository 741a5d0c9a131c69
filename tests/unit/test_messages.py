"""Parsing of queue messages: what is taken, what is refused, and that a bad item fails alone."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest

from embakery.errors import InvalidRequestError, NotFoundError, RequestTooLargeError
from embakery.messages import (
    Document,
    EmbedMessage,
    Message,
    Rejected,
    RerankMessage,
    RerankQuery,
    SourceMessage,
    parse_message,
    parse_source_line,
)
from embakery.sources import Source
from embakery.texts import TextLimits

LIMITS = TextLimits(max_characters=1000)
CANARY = "the-canary-sings"
NEIGHBOUR = {"id": "neighbour", "text": "is well"}


def parse(body: str) -> Message:
    return parse_message(body, limits=LIMITS)


def embed_body(*documents: object, **more: object) -> str:
    return json.dumps({"v": 1, "documents": documents, **more})


def rerank_body(*queries: object, **more: object) -> str:
    return json.dumps({"v": 1, "rerank": queries, **more})


def openai_body(value: object, **more: object) -> str:
    line = {"custom_id": "line-1", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": value}}
    return json.dumps({**line, **more})


def refusal(body: str) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(body)
    return caught.value


def rejection(item: object) -> InvalidRequestError:
    assert isinstance(item, Rejected)
    return item.error


# What is taken


def test_a_full_message() -> None:
    document = {"id": "doc-7", "text": "hello", "version": 3, "metadata": {"page": 4, "tags": ["x", None]}}
    message = parse(embed_body(document, input_type="query", destination="table", job_id="job-1"))
    assert message == EmbedMessage(
        documents=(Document("doc-7", "hello", version=3, metadata={"page": 4, "tags": ["x", None]}),),
        input_type="query",
        destination="table",
        job_id="job-1",
    )


def test_defaults() -> None:
    assert parse(embed_body({"id": "doc-7", "text": "hello"})) == EmbedMessage(
        documents=(Document("doc-7", "hello", version=1, metadata={}),),
        input_type="document",
        destination="default",
        job_id=None,
    )


def test_null_means_the_default_of_an_optional_field() -> None:
    body = embed_body({"id": "a", "text": "b", "version": None, "metadata": None}, destination=None, job_id=None)
    assert parse(body) == EmbedMessage((Document("a", "b"),))


def test_a_hundred_documents_and_the_largest_values_are_taken() -> None:
    largest = {"id": "é" * 256, "text": "é" * 1000, "version": 2**53 - 1, "metadata": {"m": "m" * (64 * 1024 - 9)}}
    message = parse(embed_body(*[largest] * 100))
    assert isinstance(message, EmbedMessage)
    assert len(message.documents) == 100
    assert message.documents[99] == Document(**largest)  # type: ignore[arg-type]


def test_unusual_but_valid_text_is_kept_as_it_is() -> None:
    text = " \u200b é e\u0301 \U0001f600 \u2028 \x01 "
    message = parse(embed_body({"id": "doc #1/ä \U0001f600", "text": text, "version": 0}))
    assert message.documents == (Document("doc #1/ä \U0001f600", text, version=0),)  # type: ignore[union-attr]


def test_a_rerank_message() -> None:
    query = {"id": "q-9", "query": "why", "documents": [{"id": "d", "text": "so"}, {"id": "e", "text": "no"}]}
    assert parse(
        rerank_body({**query, "top_n": 1, "version": 2}, query, destination="table", job_id="j")
    ) == RerankMessage(
        queries=(
            RerankQuery("q-9", "why", (Document("d", "so"), Document("e", "no")), top_n=1, version=2),
            RerankQuery("q-9", "why", (Document("d", "so"), Document("e", "no")), top_n=None, version=1),
        ),
        destination="table",
        job_id="j",
    )


@pytest.mark.parametrize("method", [None, "late-interaction", "cross-encoder"])
def test_a_rerank_message_may_name_its_method(method: str | None) -> None:
    query = {"id": "q", "query": "why", "documents": [{"id": "d", "text": "so"}]}
    message = parse(rerank_body(query, method=method))
    assert isinstance(message, RerankMessage)
    assert message.method == method


def test_an_openai_batch_line_with_one_input_keeps_its_custom_id() -> None:
    assert parse(openai_body("hello")) == EmbedMessage((Document("line-1", "hello"),), model="m")


def test_an_openai_batch_line_with_several_inputs_numbers_them_by_place() -> None:
    message = parse(openai_body(["one", " ", "three"]))
    assert isinstance(message, EmbedMessage)
    first, second, third = message.documents
    assert (first, third) == (Document("line-1#0", "one"), Document("line-1#2", "three"))
    assert str(rejection(second)) == "body.input[1]: must not be empty or blank"


# What is refused as a whole


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param("", "body: is not valid JSON at character 0", id="empty"),
        pytest.param('{"v": 1, "documents": [', "body: is not valid JSON at character 23", id="cut short"),
        pytest.param('{"v": 1} {}', "body: is not valid JSON at character 9", id="two values"),
        pytest.param('{"v": NaN}', "body: is not valid JSON", id="NaN"),
        pytest.param('{"v": Infinity}', "body: is not valid JSON", id="Infinity"),
        pytest.param('{"v": -Infinity}', "body: is not valid JSON", id="-Infinity"),
        pytest.param('{"v": ' + "9" * 5000 + "}", "body: is not valid JSON", id="huge int"),
        pytest.param("[" * 200_000, "body: is nested too deeply", id="deep arrays"),
        pytest.param('{"a":' * 200_000, "body: is nested too deeply", id="deep objects"),
        pytest.param("null", "body: must be an object, not null", id="null"),
        pytest.param("true", "body: must be an object, not a boolean", id="boolean"),
        pytest.param("1", "body: must be an object, not a number", id="number"),
        pytest.param("1.5", "body: must be an object, not a number", id="float"),
        pytest.param('"x"', "body: must be an object, not a string", id="string"),
        pytest.param("[]", "body: must be an object, not an array", id="array"),
        pytest.param('{"documents": []}', "v: must be 1", id="no version"),
        pytest.param('{"v": 2, "documents": []}', "v: must be 1", id="unknown version"),
        pytest.param('{"v": 0, "documents": []}', "v: must be 1", id="version 0"),
        pytest.param('{"v": "1", "documents": []}', "v: must be 1", id="version as string"),
        pytest.param('{"v": true, "documents": []}', "v: must be 1", id="version as true"),
        pytest.param('{"v": [1], "documents": []}', "v: must be 1", id="version as array"),
        pytest.param('{"v": 1}', "body: must hold one of documents, rerank and source", id="no kind"),
        pytest.param(
            '{"v": 1, "documents": [], "rerank": []}',
            "body: must hold one of documents, rerank and source",
            id="two kinds",
        ),
        pytest.param('{"v": 1, "documents": null}', "documents: must be an array, not null", id="documents null"),
        pytest.param('{"v": 1, "documents": {}}', "documents: must be an array, not an object", id="documents object"),
        pytest.param('{"v": 1, "documents": []}', "documents: must not be empty", id="no documents"),
        pytest.param('{"v": 1, "rerank": "x"}', "rerank: must be an array, not a string", id="rerank string"),
        pytest.param('{"v": 1, "rerank": []}', "rerank: must not be empty", id="no queries"),
        pytest.param(
            rerank_body({}, method="bm25"), "method: must be one of late-interaction, cross-encoder", id="method"
        ),
        pytest.param(
            rerank_body({}, method=""), "method: must be one of late-interaction, cross-encoder", id="empty method"
        ),
        pytest.param(
            rerank_body({}, method=[]), "method: must be one of late-interaction, cross-encoder", id="method array"
        ),
        pytest.param(
            embed_body(NEIGHBOUR, input_type="passage"), "input_type: must be one of document, query", id="input type"
        ),
        pytest.param(
            embed_body(NEIGHBOUR, input_type=["query"]), "input_type: must be one of document, query", id="type array"
        ),
        pytest.param(
            embed_body(NEIGHBOUR, destination=5), "destination: must be a string, not a number", id="destination"
        ),
        pytest.param(
            embed_body(NEIGHBOUR, destination=""), "destination: must not be empty or blank", id="empty destination"
        ),
        pytest.param(embed_body(NEIGHBOUR, job_id={}), "job_id: must be a string, not an object", id="job id"),
        pytest.param(openai_body("x", custom_id=7), "custom_id: must be a string, not a number", id="custom id"),
        pytest.param(openai_body("x", url="/v1/chat/completions"), "url: must be /v1/embeddings", id="openai url"),
        pytest.param(openai_body("x", method="GET"), "method: must be POST", id="openai method"),
        pytest.param(openai_body("x", body=None), "body: must be an object, not null", id="openai body"),
        pytest.param(openai_body(None), "body.input: must be an array, not null", id="openai no input"),
        pytest.param(openai_body([]), "body.input: must not be empty", id="openai empty input"),
        pytest.param(openai_body(""), "body.input: must not be empty or blank", id="openai empty text"),
        pytest.param(
            openai_body("x", body={"input": "x", "dimensions": 8}),
            "body.dimensions: is not supported in queue messages: whole vectors are written",
            id="openai dimensions",
        ),
    ],
)
def test_a_message_wrong_as_a_whole_is_refused_naming_the_field(body: str, error: str) -> None:
    found = refusal(body)
    assert str(found) == error
    assert type(found) is InvalidRequestError


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (embed_body(*[NEIGHBOUR] * 101), "documents: 101 items, the limit is 100"),
        (rerank_body(*[{}] * 101), "rerank: 101 items, the limit is 100"),
        (openai_body(["x"] * 101), "body.input: 101 items, the limit is 100"),
        (embed_body(NEIGHBOUR, job_id="j" * 257), "job_id: 257 characters, the limit is 256"),
        (embed_body(NEIGHBOUR, destination="d" * 257), "destination: 257 characters, the limit is 256"),
    ],
    ids=["documents", "queries", "inputs", "job id", "destination"],
)
def test_a_message_over_a_limit_is_too_large(body: str, error: str) -> None:
    found = refusal(body)
    assert str(found) == error
    assert type(found) is RequestTooLargeError


SOURCE = {"key": "sources/part-1.jsonl", "sha256": "ab" * 32, "size": 1234}


def test_a_claim_check_names_key_digest_and_size() -> None:
    body = json.dumps({"v": 1, "source": SOURCE, "input_type": "query", "destination": "table", "job_id": "j"})
    assert parse(body) == SourceMessage(Source("sources/part-1.jsonl", "ab" * 32, 1234), "query", "table", "j")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"key": None}, "source.key"),
        ({"key": ""}, "source.key"),
        ({"key": "a" * 1025}, "source.key"),
        ({"key": "a\u0000b"}, "source.key"),
        ({"sha256": None}, "source.sha256"),
        ({"sha256": "AB" * 32}, "source.sha256"),
        ({"sha256": "ab" * 31}, "source.sha256"),
        ({"size": None}, "source.size"),
        ({"size": 0}, "source.size"),
        ({"size": "12"}, "source.size"),
        ({"size": True}, "source.size"),
        ({"size": 2**60}, "source.size"),
    ],
)
def test_a_claim_check_that_lacks_one_of_them_is_refused(change: dict[str, object], field: str) -> None:
    assert refusal(json.dumps({"v": 1, "source": {**SOURCE, **change}})).field == field


@pytest.mark.parametrize("source", [None, [], "sources/part-1.jsonl", 7])
def test_a_claim_check_is_an_object(source: object) -> None:
    assert refusal(json.dumps({"v": 1, "source": source})).field == "source"


def line(content: object) -> tuple[Document | Rejected, ...]:
    def check_model(model: str | None, field: str) -> None:
        if model not in (None, "tiny"):
            raise NotFoundError(field, "another")

    return parse_source_line(json.dumps(content).encode(), limits=TextLimits(), check_model=check_model)


def test_a_payloads_line_is_a_document() -> None:
    assert line({"id": "a", "text": "b", "version": 2}) == (Document("a", "b", 2),)


def test_or_a_line_of_an_openai_batch_file() -> None:
    made = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "tiny", "input": ["x", "y"]}}
    assert line(made) == (Document("a#0", "x"), Document("a#1", "y"))
    (rejected,) = line({**made, "body": {"model": "other", "input": "x"}})
    assert isinstance(rejected, Rejected)
    assert rejected.error.field == "body.model"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"null", b'{"id": "a"}', b'{"text": "a"}', b"[" * 100_000]
)
def test_a_bad_line_is_rejected_alone(content: bytes) -> None:
    (rejected,) = parse_source_line(content, limits=TextLimits(), check_model=lambda _, __: None)
    assert isinstance(rejected, Rejected)


BAD_DOCUMENTS: list[tuple[str, str, str]] = [
    ("null", "null", "documents[0]: must be an object, not null"),
    ("a string", '"x"', "documents[0]: must be an object, not a string"),
    ("an array", "[]", "documents[0]: must be an object, not an array"),
    ("empty", "{}", "documents[0].id: must be a string, not null"),
    ("missing id", '{"text": "x"}', "documents[0].id: must be a string, not null"),
    ("id null", '{"id": null, "text": "x"}', "documents[0].id: must be a string, not null"),
    ("id number", '{"id": 7, "text": "x"}', "documents[0].id: must be a string, not a number"),
    ("id true", '{"id": true, "text": "x"}', "documents[0].id: must be a string, not a boolean"),
    ("id empty", '{"id": "", "text": "x"}', "documents[0].id: must not be empty or blank"),
    ("id blank", '{"id": " \\t", "text": "x"}', "documents[0].id: must not be empty or blank"),
    ("id NUL", '{"id": "a\\u0000b", "text": "x"}', "documents[0].id: must not contain the NUL character"),
    (
        "id surrogate",
        '{"id": "\\ud83d", "text": "x"}',
        "documents[0].id: must not contain lone surrogates (it is not valid Unicode)",
    ),
    ("missing text", '{"id": "a"}', "documents[0].text: must be a string, not null"),
    ("text number", '{"id": "a", "text": 1.5}', "documents[0].text: must be a string, not a number"),
    ("text false", '{"id": "a", "text": false}', "documents[0].text: must be a string, not a boolean"),
    ("text array", '{"id": "a", "text": ["x"]}', "documents[0].text: must be a string, not an array"),
    ("text object", '{"id": "a", "text": {}}', "documents[0].text: must be a string, not an object"),
    ("empty text", '{"id": "a", "text": ""}', "documents[0].text: must not be empty or blank"),
    ("spaces", '{"id": "a", "text": "    "}', "documents[0].text: must not be empty or blank"),
    ("Unicode spaces", '{"id": "a", "text": "\\u00a0\\u2003\\n"}', "documents[0].text: must not be empty or blank"),
    ("NUL", '{"id": "a", "text": "x\\u0000y"}', "documents[0].text: must not contain the NUL character"),
    (
        "high surrogate",
        '{"id": "a", "text": "x \\ud83d y"}',
        "documents[0].text: must not contain lone surrogates (it is not valid Unicode)",
    ),
    (
        "low surrogate",
        '{"id": "a", "text": "\\ude00\\ud83d"}',
        "documents[0].text: must not contain lone surrogates (it is not valid Unicode)",
    ),
    (
        "version string",
        '{"id": "a", "text": "x", "version": "3"}',
        "documents[0].version: must be a whole number, not a string",
    ),
    (
        "version float",
        '{"id": "a", "text": "x", "version": 1.5}',
        "documents[0].version: must be a whole number, not a number",
    ),
    (
        "version 1e999",
        '{"id": "a", "text": "x", "version": 1e999}',
        "documents[0].version: must be a whole number, not a number",
    ),
    (
        "version true",
        '{"id": "a", "text": "x", "version": true}',
        "documents[0].version: must be a whole number, not a boolean",
    ),
    (
        "version negative",
        '{"id": "a", "text": "x", "version": -1}',
        "documents[0].version: must be from 0 to 9007199254740991",
    ),
    (
        "version huge",
        '{"id": "a", "text": "x", "version": ' + "9" * 4000 + "}",
        "documents[0].version: must be from 0 to 9007199254740991",
    ),
    (
        "metadata array",
        '{"id": "a", "text": "x", "metadata": []}',
        "documents[0].metadata: must be an object, not an array",
    ),
    (
        "metadata string",
        '{"id": "a", "text": "x", "metadata": "m"}',
        "documents[0].metadata: must be an object, not a string",
    ),
    (
        "metadata 1e999",
        '{"id": "a", "text": "x", "metadata": {"m": -1e999}}',
        "documents[0].metadata: must not contain lone surrogates or numbers beyond JSON's",
    ),
    (
        "metadata surrogate",
        '{"id": "a", "text": "x", "metadata": {"m": "\\ud800"}}',
        "documents[0].metadata: must not contain lone surrogates or numbers beyond JSON's",
    ),
    (
        "metadata key surrogate",
        '{"id": "a", "text": "x", "metadata": {"\\udfff": 1}}',
        "documents[0].metadata: must not contain lone surrogates or numbers beyond JSON's",
    ),
]


@pytest.mark.parametrize(("document", "error"), [case[1:] for case in BAD_DOCUMENTS], ids=[c[0] for c in BAD_DOCUMENTS])
def test_a_bad_document_fails_alone_naming_item_and_field(document: str, error: str) -> None:
    message = parse(f'{{"v": 1, "documents": [{document}, {json.dumps(NEIGHBOUR)}]}}')
    assert isinstance(message, EmbedMessage)
    bad, good = message.documents
    assert str(rejection(bad)) == error
    assert good == Document("neighbour", "is well")


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"id": "a", "text": "x" * 2**20}, "documents[1].text: 1048576 characters, the limit is 1000"),
        ({"id": "a", "text": " " * 2**20}, "documents[1].text: 1048576 characters, the limit is 1000"),
        ({"id": "i" * 257, "text": "x"}, "documents[1].id: 257 characters, the limit is 256"),
        (
            {"id": "a", "text": "x", "metadata": {"m": "m" * (64 * 1024 - 8)}},
            "documents[1].metadata: 65537 bytes, the limit is 65536",
        ),
        (
            # 22,000 characters, of three bytes each.
            {"id": "a", "text": "x", "metadata": {"m": "語" * 22_000}},
            "documents[1].metadata: 66009 bytes, the limit is 65536",
        ),
    ],
    ids=["1 MiB of text", "1 MiB of spaces", "id", "metadata", "metadata in bytes"],
)
def test_a_document_over_a_limit_fails_alone_as_too_large(document: dict[str, Any], error: str) -> None:
    message = parse(embed_body(NEIGHBOUR, document))
    assert isinstance(message, EmbedMessage)
    good, bad = message.documents
    assert good == Document("neighbour", "is well")
    assert str(rejection(bad)) == error
    assert type(rejection(bad)) is RequestTooLargeError


def test_deep_metadata_never_breaks_out_of_the_parser() -> None:
    """Near the recursion limit json.loads reads what json.dumps can no longer write; where depends on the stack."""
    outcomes = {depth: outcome_of_depth(depth) for depth in (32, 33, 100, *range(900, 1010), 5000)}
    assert outcomes[32] == outcomes[900] == "documents[0].metadata: is nested more than 32 deep"
    assert set(outcomes.values()) <= {
        "documents[0].metadata: is nested more than 32 deep",
        "body: is nested too deeply",
    }


def outcome_of_depth(depth: int) -> str:
    metadata = '{"m": ' + "[" * depth + "]" * depth + "}"
    body = f'{{"v": 1, "documents": [{{"id": "a", "text": "x", "metadata": {metadata}}}, {json.dumps(NEIGHBOUR)}]}}'
    try:
        message = parse(body)
    except InvalidRequestError as error:
        return str(error)
    assert isinstance(message, EmbedMessage)
    assert message.documents[1] == Document("neighbour", "is well")
    return str(rejection(message.documents[0]))


def test_metadata_may_be_nested_32_deep() -> None:
    metadata: dict[str, Any] = {}
    for _ in range(31):
        metadata = {"m": metadata}
    message = parse(embed_body({"id": "a", "text": "x", "metadata": metadata}))
    assert message.documents == (Document("a", "x", metadata=metadata),)  # type: ignore[union-attr]


GOOD_QUERY = {"id": "q", "query": "why", "documents": [{"id": "d", "text": "so"}]}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"id": None}, "rerank[0].id: must be a string, not null"),
        ({"query": ""}, "rerank[0].query: must not be empty or blank"),
        ({"query": "x" * 1001}, "rerank[0].query: 1001 characters, the limit is 1000"),
        ({"documents": None}, "rerank[0].documents: must be an array, not null"),
        ({"documents": []}, "rerank[0].documents: must not be empty"),
        ({"documents": [{}] * 101}, "rerank[0].documents: 101 items, the limit is 100"),
        ({"documents": ["so"]}, "rerank[0].documents[0]: must be an object, not a string"),
        (
            {"documents": [{"id": "d", "text": "so"}, {"id": "e", "text": "\0"}]},
            "rerank[0].documents[1].text: must not contain the NUL character",
        ),
        ({"documents": [{"text": "so"}]}, "rerank[0].documents[0].id: must be a string, not null"),
        ({"top_n": 0}, "rerank[0].top_n: must be from 1 to 9007199254740991"),
        ({"top_n": True}, "rerank[0].top_n: must be a whole number, not a boolean"),
        ({"version": "1"}, "rerank[0].version: must be a whole number, not a string"),
    ],
)
def test_a_bad_query_fails_alone_naming_item_and_field(change: dict[str, Any], error: str) -> None:
    message = parse(rerank_body({**GOOD_QUERY, **change}, GOOD_QUERY))
    assert isinstance(message, RerankMessage)
    bad, good = message.queries
    assert str(rejection(bad)) == error
    assert good == RerankQuery("q", "why", (Document("d", "so"),))


def test_a_query_that_is_no_object_fails_alone() -> None:
    message = parse(rerank_body("why", GOOD_QUERY))
    assert isinstance(message, RerankMessage)
    assert str(rejection(message.queries[0])) == "rerank[0]: must be an object, not a string"
    assert isinstance(message.queries[1], RerankQuery)


# What errors do not say


def told(error: BaseException) -> str:
    """Everything that a log could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    "body",
    [
        f'{{"v": 1, "documents": [{{"id": "{CANARY}", "text": "{CANARY}',
        f'{{"v": 1, "{CANARY}": NaN}}',
        f'"{CANARY}"',
        json.dumps({"v": CANARY}),
        embed_body(NEIGHBOUR, input_type=CANARY),
        embed_body(NEIGHBOUR, job_id=CANARY * 20),
        json.dumps({"v": 1, "documents": CANARY}),
        json.dumps({"v": 1, "documents": {CANARY: CANARY}}),
        openai_body("x", url=CANARY),
        openai_body("x", method=CANARY),
    ],
)
def test_a_refusal_quotes_nothing_of_the_message(body: str) -> None:
    assert CANARY not in told(refusal(body))


@pytest.mark.parametrize(
    "document",
    [
        CANARY,
        [CANARY],
        {"text": CANARY},
        {"id": [CANARY], "text": CANARY},
        {"id": f"{CANARY}\0", "text": CANARY},
        {"id": "a", "text": f"{CANARY}\ud800"},
        {"id": "a", "text": f"{CANARY}\0"},
        {"id": "a", "text": CANARY * 100},
        {"id": "a", "text": CANARY, "version": CANARY},
        {"id": "a", "text": CANARY, "metadata": [CANARY]},
        {"id": "a", "text": CANARY, "metadata": {CANARY: f"{CANARY}\ud800"}},
    ],
)
def test_a_rejection_quotes_nothing_of_the_document(document: object) -> None:
    message = parse(embed_body(document))
    assert isinstance(message, EmbedMessage)
    assert CANARY not in told(rejection(message.documents[0]))
