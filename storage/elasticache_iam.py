"""ElastiCache authentication by IAM: a short-lived signed token in the place of a password.

The token is a pre-signed `connect` request without its scheme, valid for 15 minutes to log in with (AWS:
"Authenticating with IAM" in the ElastiCache user guide). redis-py asks for it whenever it opens a connection.
"""

from __future__ import annotations

from botocore.exceptions import BotoCoreError
from botocore.model import ServiceId
from botocore.session import Session, get_session
from botocore.signers import RequestSigner
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

_TOKEN_SECONDS = 900


class ElastiCacheIamCredentials(CredentialProvider):
    """Gives (user name, token) for one cache. `serverless` says which kind of cache it is: the token differs."""

    def __init__(
        self, *, username: str, cache_name: str, region: str, serverless: bool, session: Session | None = None
    ) -> None:
        self._username = username
        self._cache_name = cache_name
        self._region = region
        self._serverless = serverless
        self._session = session or get_session()

    def get_credentials(self) -> tuple[str, str]:
        """Sign a new token. Raises redis.AuthenticationError where AWS credentials are missing or cannot be had."""
        try:
            return self._username, self._sign()
        except BotoCoreError as error:
            raise AuthenticationError(f"no cache token could be signed: {type(error).__name__}") from error

    def _sign(self) -> str:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise AuthenticationError("no AWS credentials to sign a cache token with")
        signer = RequestSigner(
            ServiceId("elasticache"),
            self._region,
            "elasticache",
            "v4",
            credentials,
            self._session.get_component("event_emitter"),
        )
        kind = "&ResourceType=ServerlessCache" if self._serverless else ""
        url = f"https://{self._cache_name}/?Action=connect&User={self._username}{kind}"
        request = {"method": "GET", "url": url, "body": {}, "headers": {}, "context": {}}
        signed: str = signer.generate_presigned_url(request, operation_name="connect", expires_in=_TOKEN_SECONDS)
        return signed.removeprefix("https://")
