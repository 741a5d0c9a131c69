"""Checks, prompts, truncation: on a real tokenizer of eleven words, made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from unit_fakes import write_tokenizer

from embakery.errors import InvalidRequestError, RequestTooLargeError
from embakery.texts import TextLimits, TextTokenizer, TokenizedText, Truncate, check_text, check_truncate, json_type

CLS, SEP, UNK = 1, 2, 0
A, B, C, D, E, QUERY = 3, 4, 5, 6, 7, 8


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    return TextTokenizer(write_tokenizer(tmp_path / "tokenizer.json"), max_tokens=5, prompts={"query": "query: "})


def one(
    tokenizer: TextTokenizer, text: str, *, input_type: str = "document", truncate: Truncate = "END"
) -> TokenizedText | InvalidRequestError:
    (item,) = tokenizer.tokenize([text], input_type=input_type, truncate=truncate)
    return item


@pytest.mark.parametrize("text", ["a", " a ", "é", "\U0001f600", "\x01", "\u200b", "x" * 10])
def test_a_good_text_comes_back_unchanged(text: str) -> None:
    assert check_text(text, limits=TextLimits(max_characters=10)) == text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "must be a string, not null"),
        (b"bytes", "must be a string, not bytes"),
        (3, "must be a string, not a number"),
        (["a"], "must be a string, not an array"),
        ("", "must not be empty or blank"),
        (" \t\r\n\u00a0\u3000", "must not be empty or blank"),
        ("\0", "must not contain the NUL character"),
        ("a\ud800b", "must not contain lone surrogates (it is not valid Unicode)"),
        ("a\udfff", "must not contain lone surrogates (it is not valid Unicode)"),
    ],
)
def test_a_bad_text_is_refused(text: object, error: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_text(text, limits=TextLimits(max_characters=10))
    assert (caught.value.field, caught.value.problem) == ("", error)


def test_a_text_over_the_limit_is_too_large() -> None:
    with pytest.raises(RequestTooLargeError) as caught:
        check_text("x" * 11, limits=TextLimits(max_characters=10))
    assert caught.value.problem == "11 characters, the limit is 10"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "a number"),
        (1.5, "a number"),
        ("", "a string"),
        ([], "an array"),
        ({}, "an object"),
        ((), "tuple"),
    ],
)
def test_types_are_named_as_in_json(value: object, name: str) -> None:
    assert json_type(value) == name


def test_special_tokens_are_added_and_flagged(tokenizer: TextTokenizer) -> None:
    assert one(tokenizer, "a b") == TokenizedText((CLS, A, B, SEP), (True, False, False, True), truncated=False)


def test_an_unknown_word_is_an_ordinary_token(tokenizer: TextTokenizer) -> None:
    assert one(tokenizer, "zebra") == TokenizedText((CLS, UNK, SEP), (True, False, True), truncated=False)


def test_special_tokens_written_in_the_text_are_not_special(tokenizer: TextTokenizer) -> None:
    """They keep their id, but are the caller's own words: late interaction must not drop them."""
    assert one(tokenizer, "[SEP]") == TokenizedText((CLS, SEP, SEP), (True, False, True), truncated=False)


def test_a_text_of_exactly_the_models_length_is_whole(tokenizer: TextTokenizer) -> None:
    whole = TokenizedText((CLS, A, B, C, SEP), (True, False, False, False, True), truncated=False)
    assert [one(tokenizer, "a b c", truncate=policy) for policy in ("END", "START", "NONE")] == [whole] * 3


def test_end_cuts_off_the_end(tokenizer: TextTokenizer) -> None:
    cut = TokenizedText((CLS, A, B, C, SEP), (True, False, False, False, True), truncated=True)
    assert one(tokenizer, "a b c d e", truncate="END") == cut


def test_start_cuts_off_the_start(tokenizer: TextTokenizer) -> None:
    cut = TokenizedText((CLS, C, D, E, SEP), (True, False, False, False, True), truncated=True)
    assert one(tokenizer, "a b c d e", truncate="START") == cut


def test_start_leaves_the_prompt(tokenizer: TextTokenizer) -> None:
    (item,) = tokenizer.tokenize(["a b c d e"], input_type="query", truncate="START")
    assert item == TokenizedText((CLS, QUERY, D, E, SEP), (True, False, False, False, True), truncated=True)


def test_none_gives_an_error_that_counts_every_token(tokenizer: TextTokenizer) -> None:
    error = one(tokenizer, "a b c d e", truncate="NONE")
    assert isinstance(error, RequestTooLargeError)
    assert (error.field, error.problem) == ("", "7 tokens, the model takes 5")


def test_a_text_too_long_harms_no_neighbour(tokenizer: TextTokenizer) -> None:
    first, second, third = tokenizer.tokenize(["a", "a b c d", "b"], input_type="document", truncate="NONE")
    assert isinstance(second, RequestTooLargeError)
    assert (first, third) == (one(tokenizer, "a"), one(tokenizer, "b"))


def test_the_prompt_goes_before_texts_of_its_input_type_alone(tokenizer: TextTokenizer) -> None:
    asked = one(tokenizer, "a", input_type="query")
    assert asked == TokenizedText((CLS, QUERY, A, SEP), (True, False, False, True), truncated=False)
    assert one(tokenizer, "a", input_type="document") == TokenizedText((CLS, A, SEP), (True, False, True), False)


def test_the_prompt_counts_towards_the_length(tokenizer: TextTokenizer) -> None:
    item = one(tokenizer, "a b c", input_type="query")
    assert isinstance(item, TokenizedText)
    assert (item.ids, item.truncated) == ((CLS, QUERY, A, B, SEP), True)


@pytest.mark.parametrize("input_type", ["document", "query"])
def test_a_text_without_tokens_of_its_own_is_an_error(tokenizer: TextTokenizer, input_type: str) -> None:
    """The tokenizer drops zero-width spaces. What is left must not be answered with the prompt's vector."""
    error = one(tokenizer, "\u200b\u200b", input_type=input_type)
    assert isinstance(error, InvalidRequestError)
    assert (error.field, error.problem) == ("", "holds nothing that the model's tokenizer knows")


def test_no_texts_give_nothing(tokenizer: TextTokenizer) -> None:
    assert tokenizer.tokenize([], input_type="query") == []


def test_padding_and_truncation_of_the_file_are_switched_off(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    written = Tokenizer.from_file(str(path))
    written.enable_padding(length=16)
    written.enable_truncation(max_length=3)
    written.save(str(path))
    tokenizer = TextTokenizer(path, max_tokens=8, prompts={})
    ids = [
        item.ids
        for item in tokenizer.tokenize(["a b c", "a"], input_type="document")
        if isinstance(item, TokenizedText)
    ]
    assert ids == [(CLS, A, B, C, SEP), (CLS, A, SEP)]


@pytest.mark.parametrize("policy", ["NONE", "START", "END"])
def test_truncation_policies(policy: str) -> None:
    assert check_truncate(policy) == policy


@pytest.mark.parametrize("policy", ["end", "", None, 1, True, ["END"], {"END": 1}])
def test_other_truncation_policies_are_refused(policy: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_truncate(policy)
    assert str(caught.value) == "truncate: must be NONE, START or END"


def test_an_unknown_policy_is_refused_even_for_short_texts(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidRequestError):
        one(tokenizer, "a", truncate="MIDDLE")  # type: ignore[arg-type]
