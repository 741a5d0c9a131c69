"""What can go wrong, and who must act.

    EmbakeryError
    ├── InvalidRequestError      the caller: mend the request, do not retry it as it is
    │   ├── RequestTooLargeError   the caller: send less
    │   ├── NotFoundError          the caller: ask for what there is
    │   └── PoisonError            the caller, and us: the item ends the process that takes it up
    ├── UnavailableError         nobody: retry later
    │   ├── CacheUnavailableError  nobody: requests go on without the cache
    │   ├── StoreUnavailableError  nobody: the message comes back
    │   ├── DeadlineExceededError  nobody: time ran out, the message comes back
    │   └── BehindFailureError     nobody: the message comes back, after the one before it in its group
    ├── EncodingError            us: the engine gave a vector that must not leave
    ├── ConfigurationError       the operator: mend a setting
    └── ArtifactError            whoever baked or deployed the artifact
        ├── DigestMismatchError    a file is not the one that was baked: deploy again
        └── GoldenMismatchError    this machine computes other bits: bake for it, nothing is written until then

Messages name fields, items, files and settings. They never quote a text or a vector.
"""

from __future__ import annotations


class EmbakeryError(Exception):
    """The root. `code` is a stable word for logs and metrics."""

    code = "internal"


class InvalidRequestError(EmbakeryError):
    """The caller's fault: do not retry. `field` names what is wrong, such as `documents[3].text`."""

    code = "invalid_request"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem

    def within(self, parent: str) -> InvalidRequestError:
        """Return the same error seen from one level up: `text` within `documents[3]`."""
        separator = "." if self.field and not self.field.startswith("[") else ""
        return type(self)(f"{parent}{separator}{self.field}", self.problem)


class RequestTooLargeError(InvalidRequestError):
    """The caller's fault: over a limit."""

    code = "too_large"


class NotFoundError(InvalidRequestError):
    """The caller's fault: no such route or model."""

    code = "not_found"


class PoisonError(InvalidRequestError):
    """An item that was being worked on each time that its process was killed: it is not tried again."""

    code = "poison"


class UnavailableError(EmbakeryError):
    """Passing trouble: retry later."""

    code = "unavailable"


class CacheUnavailableError(UnavailableError):
    """The cache did not answer in time. Never fails a request."""

    code = "cache_unavailable"


class StoreUnavailableError(UnavailableError):
    """A result store did not take a write."""

    code = "store_unavailable"


class DeadlineExceededError(UnavailableError):
    """The function's time was nearly up before this item's turn came."""

    code = "deadline"


class BehindFailureError(UnavailableError):
    """A message of a FIFO group that must come after one that failed."""

    code = "behind_failure"


class EncodingError(EmbakeryError):
    """The engine returned NaN, infinity, a zero vector or a wrong length."""

    code = "encoding"


class ConfigurationError(EmbakeryError):
    """A setting is missing or wrong."""

    code = "configuration"


class ArtifactError(EmbakeryError):
    """The artifact cannot be used."""

    code = "artifact"


class DigestMismatchError(ArtifactError):
    """A file's digest, size or presence differs from the manifest."""

    code = "artifact_digest"


class GoldenMismatchError(ArtifactError):
    """The engine's vectors for the golden texts differ, in bits, from those of the bake."""

    code = "artifact_golden"
