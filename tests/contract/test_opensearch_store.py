"""What is particular to OpenSearch: what is asked, who lets it in, documents that fail alone."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterator

import numpy as np
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.session import Session
from contract_fakes import VECTOR, embedding, ranking
from places import OpenSearchUnderTest
from recording_servers import Answer

from embakery.errors import StoreUnavailableError
from embakery.results import Result, WriteOutcome
from storage.identities import identity_digest
from storage.opensearch import OpenSearchStore
from storage.opensearch_access import BasicAccess, SignedAccess, choose_access, unsigned

WRITTEN, SUPERSEDED, FAILED = WriteOutcome.WRITTEN, WriteOutcome.SUPERSEDED, WriteOutcome.FAILED
KEY_ID, SECRET = "AKIDEXAMPLE", "canary"


@pytest.fixture
def place() -> Iterator[OpenSearchUnderTest]:
    made = OpenSearchUnderTest()
    yield made
    made.close()


def test_the_first_write_makes_the_index_and_each_write_is_one_bulk(place: OpenSearchUnderTest) -> None:
    place.store.write([embedding("a"), embedding("b")])
    place.store.write([embedding("c")])
    index = "/documents-space-1"
    assert place.server.paths() == [f"HEAD {index}", f"PUT {index}", f"POST {index}/_bulk", f"POST {index}/_bulk"]
    assert place.server.requests[2].headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in place.server.requests[2].body.decode().splitlines()]
    assert lines[0] == {
        "index": {"_id": identity_digest(embedding("a")), "version": 1, "version_type": "external"},
    }
    assert np.array(lines[1]["vector"], dtype=np.float32).tobytes() == VECTOR.tobytes()


def test_the_mapping_can_be_searched_by_vector_and_filtered_by_tenant(place: OpenSearchUnderTest) -> None:
    place.store.write([embedding()])
    made = place.server.indexes["documents-space-1"]
    assert made["settings"] == {"index": {"knn": True}}
    fields = made["mappings"]["properties"]
    assert (fields["vector"]["type"], fields["vector"]["dimension"]) == ("knn_vector", 6)
    assert fields["tenant"] == {"type": "keyword"}
    assert fields["metadata"] == {"type": "object", "enabled": False}


def test_an_index_without_knn_keeps_vectors_only(place: OpenSearchUnderTest) -> None:
    store = OpenSearchStore(f"http://{place.server.address}", index="plain", authorize=unsigned, knn=False)
    assert store.write([embedding()]) == [WRITTEN]
    fields = place.server.indexes["plain-space-1"]["mappings"]["properties"]
    assert fields["vector"] == {"type": "float", "index": False, "doc_values": False}
    store.close()


def test_spaces_and_rankings_have_indexes_of_their_own(place: OpenSearchUnderTest) -> None:
    place.store.write([embedding(), embedding(space_id="space-2", vector=VECTOR[:3]), ranking()])
    assert sorted(place.server.indexes) == ["documents-space-1", "documents-space-1-rankings", "documents-space-2"]


def test_an_index_that_another_writer_made_meanwhile_is_taken(place: OpenSearchUnderTest) -> None:
    answer = place.server.answer

    def hidden(request: object) -> Answer:
        return Answer(404) if getattr(request, "method", "") == "HEAD" else answer(request)  # type: ignore[arg-type]

    OpenSearchStore(f"http://{place.server.address}", index="documents", authorize=unsigned).write([embedding("a")])
    place.server.answer = hidden  # type: ignore[method-assign]
    assert place.store.write([embedding("a"), embedding("b")]) == [SUPERSEDED, WRITTEN]


def test_a_document_that_is_refused_fails_alone(place: OpenSearchUnderTest) -> None:
    outcomes = place.store.write([embedding("a"), embedding("b", vector=VECTOR[:3]), embedding("c")])
    assert outcomes == [WRITTEN, FAILED, WRITTEN]


def test_large_batches_come_in_parts(place: OpenSearchUnderTest) -> None:
    batch: list[Result] = [embedding(str(n), metadata={"m": "m" * 60_000}) for n in range(300)]
    assert place.store.write(batch) == [WRITTEN] * 300
    bulks = [request for request in place.server.requests if request.path.endswith("_bulk")]
    assert len(bulks) == 3
    assert all(len(request.body) <= 8 * 1024 * 1024 for request in bulks)


@pytest.mark.parametrize("status", [400, 401, 403, 413, 429, 500, 503])
def test_a_server_that_takes_nothing_is_unavailable(place: OpenSearchUnderTest, status: int) -> None:
    place.store.write([embedding("a"), ranking()])
    place.server.broken = Answer(status, {"error": {"type": "no", "reason": "canary"}})
    with pytest.raises(StoreUnavailableError) as caught:
        place.store.write([embedding("b"), ranking("r")])
    assert str(caught.value) == f"opensearch answered {status} to a bulk request"


def test_an_answer_that_names_fewer_items_is_not_believed(place: OpenSearchUnderTest) -> None:
    place.store.write([embedding("a")])
    place.server.broken = Answer(200, {"items": []})
    with pytest.raises(StoreUnavailableError):
        place.store.write([embedding("b")])


# Who lets it in


@pytest.mark.parametrize("service", ["es", "aoss"])
def test_requests_are_signed_as_botocore_signs_them(place: OpenSearchUnderTest, service: str) -> None:
    session = Session()
    session.set_credentials(KEY_ID, SECRET, "token")
    access = SignedAccess(region="eu-west-1", service=service, session=session)
    endpoint = f"http://{place.server.address}"
    store = OpenSearchStore(endpoint, index="documents", authorize=access)
    assert store.write([embedding("Ü")]) == [WRITTEN]
    store.close()
    for request in place.server.requests:
        digest = hashlib.sha256(request.body).hexdigest()
        assert request.headers["X-Amz-Content-SHA256"] == digest
        assert f"/eu-west-1/{service}/aws4_request" in request.headers["Authorization"]
        assert resigned(request.headers, f"{endpoint}{request.path}", request.query, request.method, request.body)


def resigned(headers: object, url: str, query: str, method: str, body: bytes) -> bool:
    """Sign what arrived once more, as the service does to check it."""
    arrived = dict(headers)  # type: ignore[call-overload]
    signed = re.search(r"SignedHeaders=([^,]+)", arrived["Authorization"])
    assert signed is not None
    kept = {name: value for name, value in arrived.items() if name.lower() in signed[1].split(";")}
    request = AWSRequest(method, f"{url}?{query}" if query else url, headers=kept, data=body)
    request.context["timestamp"] = arrived["X-Amz-Date"]
    scope = arrived["Authorization"].split("/")
    signer = SigV4Auth(Credentials(KEY_ID, SECRET, "token"), scope[3], scope[2])
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return bool(arrived["Authorization"].endswith(signer.signature(text, request)))


def test_without_credentials_nothing_is_sent(place: OpenSearchUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentials(Session):
        def get_credentials(self, *_: object) -> None:
            return None

    access = SignedAccess(region="eu-west-1", service="es", session=NoCredentials())
    store = OpenSearchStore(f"http://{place.server.address}", index="documents", authorize=access)
    with pytest.raises(StoreUnavailableError, match="no AWS credentials"):
        store.write([embedding()])
    assert place.server.requests == []
    store.close()


def test_a_user_and_password_are_sent_as_basic(place: OpenSearchUnderTest) -> None:
    store = OpenSearchStore(f"http://{place.server.address}", index="documents", authorize=BasicAccess("me", "päss"))
    store.write([embedding()])
    store.close()
    expected = "Basic " + b64encode("me:päss".encode()).decode()
    assert {request.headers["Authorization"] for request in place.server.requests} == {expected}


@pytest.mark.parametrize(
    ("host", "options", "env", "kind"),
    [
        ("search-x-abc.eu-west-1.es.amazonaws.com", {}, {}, SignedAccess),
        ("abc.us-east-1.aoss.amazonaws.com", {}, {"EMBAKERY_OPENSEARCH_PASSWORD": "p"}, SignedAccess),
        ("search.example.com", {"region": "eu-west-1"}, {}, SignedAccess),
        ("search.example.com", {}, {"EMBAKERY_OPENSEARCH_PASSWORD": "p"}, BasicAccess),
        ("amazonaws.com.example.com", {}, {}, type(unsigned)),
        ("eu-west-1.es.amazonaws.com.example.com", {}, {}, type(unsigned)),
    ],
)
def test_the_host_says_who_lets_in(host: str, options: dict[str, str], env: dict[str, str], kind: type) -> None:
    assert type(choose_access(host, options, env)) is kind
