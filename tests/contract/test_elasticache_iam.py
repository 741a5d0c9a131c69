"""The token with which a cache is opened by IAM, checked against Signature Version 4 worked out by hand."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import parse_qsl, quote

import pytest
from botocore.exceptions import PartialCredentialsError
from botocore.session import Session
from redis.exceptions import AuthenticationError

from embakery.errors import CacheUnavailableError
from local.processes import ServerProcess
from storage.elasticache_iam import ElastiCacheIamCredentials
from storage.redis_backend import RedisBackend

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def make(
    *, serverless: bool = False, session: Session | None = None, token: str | None = None
) -> ElastiCacheIamCredentials:
    if session is None:
        session = Session()
        session.set_credentials("AKIAIOSFODNN7EXAMPLE", SECRET, token)
    return ElastiCacheIamCredentials(
        username="embakery-worker", cache_name="my-cache", region="eu-west-3", serverless=serverless, session=session
    )


def split(token: str) -> tuple[str, dict[str, str]]:
    """Split a token into what stands before the query, and the query."""
    place, _, query = token.partition("?")
    return place, dict(parse_qsl(query, strict_parsing=True))


def test_the_token_is_a_signed_connect_request_without_its_scheme() -> None:
    username, token = make().get_credentials()
    place, query = split(token)
    assert username == "embakery-worker"
    assert place == "my-cache/"
    date = query["X-Amz-Date"][:8]
    assert {name: value for name, value in query.items() if name not in {"X-Amz-Date", "X-Amz-Signature"}} == {
        "Action": "connect",
        "User": "embakery-worker",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"AKIAIOSFODNN7EXAMPLE/{date}/eu-west-3/elasticache/aws4_request",
        "X-Amz-Expires": "900",
        "X-Amz-SignedHeaders": "host",
    }


def test_only_a_serverless_cache_names_its_kind() -> None:
    assert split(make(serverless=True).get_credentials()[1])[1]["ResourceType"] == "ServerlessCache"
    assert "ResourceType" not in split(make(serverless=False).get_credentials()[1])[1]


def test_a_functions_session_token_is_signed_in() -> None:
    _, query = split(make(token="a/session+token==").get_credentials()[1])
    assert query["X-Amz-Security-Token"] == "a/session+token=="
    assert query["X-Amz-Signature"] == signature(query)


@pytest.mark.parametrize("serverless", [False, True])
def test_the_signature_is_that_of_signature_version_4(serverless: bool) -> None:
    _, query = split(make(serverless=serverless).get_credentials()[1])
    assert query["X-Amz-Signature"] == signature(query)


def signature(query: dict[str, str]) -> str:
    """Sign `GET my-cache/?query` (AWS: "Create a signed AWS API request")."""
    signed = {name: value for name, value in query.items() if name != "X-Amz-Signature"}
    canonical = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(signed.items()))
    request = f"GET\n/\n{canonical}\nhost:my-cache\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
    date = query["X-Amz-Date"]
    scope = f"{date[:8]}/eu-west-3/elasticache/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def test_the_secret_is_not_in_the_token() -> None:
    assert SECRET not in make().get_credentials()[1]


class NoCredentials(Session):
    def get_credentials(self, *_: object, **__: object) -> None:
        return None


class BrokenCredentials(Session):
    def get_credentials(self, *_: object, **__: object) -> None:
        raise PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize("session", [NoCredentials(), BrokenCredentials()], ids=["none", "broken"])
def test_without_aws_credentials_the_cache_is_unavailable_and_nothing_else(
    session: Session, shared_redis: ServerProcess
) -> None:
    credentials = make(session=session)
    with pytest.raises(AuthenticationError):
        credentials.get_credentials()
    backend = RedisBackend(f"redis://{shared_redis.address}", credentials=credentials)
    with pytest.raises(CacheUnavailableError):
        backend.get_many([b"key"])
    backend.close()
