"""Late interaction, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from embakery.errors import EncodingError, InvalidRequestError
from embakery.rerank import Ranked, check_top_n, late_interaction_scores, rank
from embakery.texts import TokenizedText
from embakery.vectors import Vectors


def text(special: str) -> TokenizedText:
    """A text of as many tokens as there are signs: `*` is a special token."""
    return TokenizedText(tuple(range(len(special))), tuple(sign == "*" for sign in special), truncated=False)


def rows(*values: tuple[float, float]) -> Vectors:
    return np.array(values, dtype=np.float32)


def test_maxsim_is_the_mean_of_each_query_tokens_best_cosine() -> None:
    query = rows((2, 0), (0, 3))
    # Best cosines: 1 and 0.8; then 0 and 1; then 0.6 for (1, 0) and 0.8 for (0, 1).
    documents = [rows((5, 0), (3, 4)), rows((0, 1)), rows((3, 4))]
    scores = late_interaction_scores(text(".."), query, [text(".."), text("."), text(".")], documents)
    assert scores == pytest.approx([0.9, 0.5, 0.7], abs=1e-6)


def test_it_is_the_mean_over_the_query_not_over_the_document() -> None:
    scores = late_interaction_scores(text("."), rows((1, 0)), [text("...")], [rows((1, 0), (0, 1), (-1, 0))])
    assert scores == [1.0]


def test_opposite_tokens_score_minus_one() -> None:
    assert late_interaction_scores(text("."), rows((1, 0)), [text(".")], [rows((-7, 0))]) == [-1.0]


def test_special_tokens_are_left_out_of_query_and_documents() -> None:
    query = rows((0, 1), (1, 0), (0, 1))
    document = rows((1, 0), (0, 1), (1, 0))
    assert late_interaction_scores(text("*.*"), query, [text("*.*")], [document]) == [0.0]


def test_a_text_of_special_tokens_alone_keeps_them() -> None:
    assert late_interaction_scores(text("**"), rows((1, 0), (1, 0)), [text("*")], [rows((1, 0))]) == [1.0]


def test_no_documents_give_no_scores() -> None:
    assert late_interaction_scores(text("."), rows((1, 0)), [], []) == []


@pytest.mark.parametrize("bad", [(float("nan"), 1), (float("inf"), 1), (0, 0)])
def test_a_bad_token_vector_is_an_encoding_error(bad: tuple[float, float]) -> None:
    with pytest.raises(EncodingError):
        late_interaction_scores(text("."), rows((1, 0)), [text("..")], [rows((1, 0), bad)])
    with pytest.raises(EncodingError):
        late_interaction_scores(text("."), rows(bad), [text(".")], [rows((1, 0))])


def test_a_bad_vector_of_a_special_token_does_not_matter() -> None:
    assert late_interaction_scores(text("*."), rows((0, 0), (1, 0)), [text(".")], [rows((1, 0))]) == [1.0]


def test_the_best_come_first_and_ties_keep_their_order() -> None:
    assert rank([0.1, 0.5, 0.1, 0.9, 0.5], top_n=None) == [
        Ranked(3, 0.9),
        Ranked(1, 0.5),
        Ranked(4, 0.5),
        Ranked(0, 0.1),
        Ranked(2, 0.1),
    ]


@pytest.mark.parametrize(
    ("top_n", "places"), [(1, [1]), (2, [1, 0]), (3, [1, 0, 2]), (9, [1, 0, 2]), (None, [1, 0, 2])]
)
def test_top_n_keeps_the_best(top_n: int | None, places: list[int]) -> None:
    assert [line.index for line in rank([0.2, 0.3, 0.1], top_n=top_n)] == places


@pytest.mark.parametrize("top_n", [None, 1, 1000])
def test_a_good_top_n(top_n: int | None) -> None:
    assert check_top_n(top_n) == top_n


@pytest.mark.parametrize("top_n", [0, -1, 1.0, "1", True, False, [1]])
def test_a_bad_top_n(top_n: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_top_n(top_n)
    assert str(caught.value) == "top_n: must be a whole number of at least 1"
