"""What to check when AWS refuses a call: for the log's reader, who has the error's word and nothing else."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from storage.clients import error_code

_KEY = "check the state and the policy of the key that it is encrypted with"
_ADVICE: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset({"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AuthorizationError", "403"}),
        "check the function's role, the resource's own policy, and that of its key if it is encrypted",
    ),
    (
        frozenset({"NoSuchBucket", "ResourceNotFoundException", "QueueDoesNotExist", "404"})
        | {"AWS.SimpleQueueService.NonExistentQueue", "NotFoundException"},
        "check its name, and that it is in the function's region and account",
    ),
    (
        frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}),
        "check its region: it is not the function's",
    ),
    (
        frozenset({"UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "InvalidToken"})
        | {"ExpiredToken", "ExpiredTokenException", "SignatureDoesNotMatch", "InvalidSignatureException"}
        | {"NoCredentialsError", "NoRegionError"},
        "check the function's credentials and region",
    ),
    (
        frozenset({"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"})
        | {"ProxyConnectionError", "SSLError"},
        "if it stays so, check the function's way there: in a VPC it needs an endpoint of the service, or a way out",
    ),
)


def explain(error: ClientError | BotoCoreError) -> str:
    """Return an error's stable word and, where somebody can do something about it, what to check."""
    code = error_code(error)
    advice = next((text for codes, text in _ADVICE if code in codes), None)
    if advice is None and code.upper().startswith("KMS") and "throttl" not in code.lower():
        advice = _KEY
    return code if advice is None else f"{code}; {advice}"
