"""Who lets a request into OpenSearch: AWS by its signature (SigV4), another server by name and password, or nobody."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Protocol

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.session import Session, get_session

from embakery.errors import StoreUnavailableError

_AWS_HOST = re.compile(r"\.([a-z0-9-]+)\.(es|aoss)\.amazonaws\.com(?:\.cn)?$")


class Authorize(Protocol):
    """Gives the headers to send with a request."""

    def __call__(self, method: str, url: str, body: bytes, headers: Mapping[str, str], /) -> Mapping[str, str]:
        """Return all headers. Raises StoreUnavailableError where there is nothing to sign with."""


def unsigned(_method: str, _url: str, _body: bytes, headers: Mapping[str, str], /) -> Mapping[str, str]:
    """Add nothing."""
    return headers


class BasicAccess:
    """Adds a user's name and password."""

    def __init__(self, username: str, password: str) -> None:
        self._header = "Basic " + b64encode(f"{username}:{password}".encode()).decode()

    def __call__(self, _method: str, _url: str, _body: bytes, headers: Mapping[str, str], /) -> Mapping[str, str]:
        """Return the headers with the user's."""
        return {**headers, "Authorization": self._header}


class SignedAccess:
    """Signs by the credentials of the environment. service: `es` for a domain, `aoss` for OpenSearch Serverless."""

    def __init__(self, *, region: str, service: str, session: Session | None = None) -> None:
        self._region = region
        self._service = service
        self._session = session or get_session()

    def __call__(self, method: str, url: str, body: bytes, headers: Mapping[str, str], /) -> Mapping[str, str]:
        """Return the headers with the signature's."""
        try:
            credentials = self._session.get_credentials()
            if credentials is None:
                raise StoreUnavailableError("no AWS credentials to sign a request to opensearch with")
            # aoss wants the digest as a header too; it takes part in the signature.
            digest = hashlib.sha256(body).hexdigest()
            request = AWSRequest(method, url, headers={**headers, "X-Amz-Content-SHA256": digest}, data=body)
            SigV4Auth(credentials.get_frozen_credentials(), self._service, self._region).add_auth(request)
        except BotoCoreError as error:
            raise StoreUnavailableError(f"no request to opensearch could be signed: {type(error).__name__}") from error
        return dict(request.headers.items())


def choose_access(host: str, options: Mapping[str, str], env: Mapping[str, str]) -> Authorize:
    """Return how to get into a host: AWS's own, or one whose URL names region and service, by signature.

    Another by EMBAKERY_OPENSEARCH_USERNAME and EMBAKERY_OPENSEARCH_PASSWORD, if they are set.
    """
    found = _AWS_HOST.search(host)
    if found is not None:
        return SignedAccess(region=found[1], service=found[2])
    if "region" in options:
        return SignedAccess(region=options["region"], service=options.get("service", "es"))
    if env.get("EMBAKERY_OPENSEARCH_PASSWORD"):
        return BasicAccess(env.get("EMBAKERY_OPENSEARCH_USERNAME", ""), env["EMBAKERY_OPENSEARCH_PASSWORD"])
    return unsigned
