"""The error tree: who must act, and how an error is told from one level up."""

from __future__ import annotations

import pytest

from embakery import errors
from embakery.errors import EmbakeryError, InvalidRequestError, RequestTooLargeError


def test_within_puts_a_dot_before_a_name_and_none_before_an_index_or_nothing() -> None:
    assert str(InvalidRequestError("text", "is bad").within("documents[3]")) == "documents[3].text: is bad"
    assert str(InvalidRequestError("[2]", "is bad").within("texts")) == "texts[2]: is bad"
    assert str(InvalidRequestError("", "is bad").within("query")) == "query: is bad"
    assert str(InvalidRequestError("", "is bad")) == "is bad"


def test_within_keeps_the_class_and_leaves_the_first_error_alone() -> None:
    first = RequestTooLargeError("text", "12 characters, the limit is 10")
    second = first.within("documents[0]")
    assert type(second) is RequestTooLargeError
    assert (second.field, second.problem) == ("documents[0].text", "12 characters, the limit is 10")
    assert first.field == "text"


@pytest.mark.parametrize(
    ("name", "parent", "code"),
    [
        ("InvalidRequestError", "EmbakeryError", "invalid_request"),
        ("RequestTooLargeError", "InvalidRequestError", "too_large"),
        ("UnavailableError", "EmbakeryError", "unavailable"),
        ("CacheUnavailableError", "UnavailableError", "cache_unavailable"),
        ("StoreUnavailableError", "UnavailableError", "store_unavailable"),
        ("DeadlineExceededError", "UnavailableError", "deadline"),
        ("EncodingError", "EmbakeryError", "encoding"),
        ("ConfigurationError", "EmbakeryError", "configuration"),
        ("ArtifactError", "EmbakeryError", "artifact"),
        ("DigestMismatchError", "ArtifactError", "artifact_digest"),
        ("GoldenMismatchError", "ArtifactError", "artifact_golden"),
    ],
)
def test_each_error_stands_in_its_place_of_the_tree(name: str, parent: str, code: str) -> None:
    error: type[EmbakeryError] = getattr(errors, name)
    assert error.__base__ is getattr(errors, parent)
    assert error.code == code


def test_the_docstring_draws_every_error() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert errors.__doc__ is not None
    drawn = {word for word in errors.__doc__.split() if word.endswith("Error")}
    assert drawn == defined
