"""Finished vectors: what may leave, Matryoshka cuts, base64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embakery.errors import EncodingError, InvalidRequestError
from embakery.vectors import (
    Vector,
    check_dimensions,
    check_vectors,
    cut_dimensions,
    from_base64,
    is_sound,
    to_base64,
)


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize("sound", [vector(1, 0, 0), vector(-1e-45, 0, 0), vector(3.4e38, -3.4e38, 0)])
def test_a_finite_vector_that_is_not_all_zero_is_sound(sound: Vector) -> None:
    assert is_sound(sound, 3)
    (checked,) = check_vectors(np.stack([sound]), 3)
    assert isinstance(checked, np.ndarray)
    assert checked.tobytes() == sound.tobytes()


@pytest.mark.parametrize(
    "unsound",
    [
        pytest.param(vector(1, float("nan"), 0), id="NaN"),
        pytest.param(vector(1, float("inf"), 0), id="infinity"),
        pytest.param(vector(1, float("-inf"), 0), id="minus infinity"),
        pytest.param(vector(0, 0, 0), id="zero"),
        pytest.param(vector(0, -0.0, 0), id="minus zero"),
        pytest.param(vector(1, 0), id="short"),
        pytest.param(vector(1, 0, 0, 0), id="long"),
        pytest.param(vector(), id="empty"),
        pytest.param(vector(1, 0, 0).reshape(1, 3), id="two-dimensional"),
        pytest.param(np.array([1, 0, 0], dtype=np.float64), id="float64"),
        pytest.param(np.array([1, 0, 0], dtype=np.float16), id="float16"),
        pytest.param(np.array([1, 0, 0], dtype=np.int32), id="int32"),
    ],
)
def test_any_other_vector_must_not_leave(unsound: Vector) -> None:
    assert not is_sound(unsound, 3)
    (checked,) = check_vectors(np.stack([unsound]), 3)
    assert isinstance(checked, EncodingError)


def test_one_unsound_vector_harms_no_neighbour() -> None:
    good, bad, other = check_vectors(np.stack([vector(1, 2), vector(float("nan"), 2), vector(3, 4)]), 2)
    assert [good.tolist(), other.tolist()] == [[1, 2], [3, 4]]  # type: ignore[union-attr]
    assert isinstance(bad, EncodingError)


def test_a_cut_vector_has_length_one() -> None:
    cut = cut_dimensions(vector(3, 4, 12), 2)
    assert cut.dtype == np.float32
    assert cut.tolist() == vector(0.6, 0.8).tolist()


def test_the_whole_vector_is_left_as_it_is() -> None:
    whole = vector(3, 4, 12)
    assert cut_dimensions(whole, 3) is whole


def test_a_cut_leaves_the_whole_vector_alone() -> None:
    whole = vector(3, 4, 12)
    cut_dimensions(whole, 2)
    assert whole.tolist() == [3, 4, 12]


def test_a_head_of_zeros_cannot_be_scaled() -> None:
    with pytest.raises(EncodingError, match="the first 2 values are all zero"):
        cut_dimensions(vector(0, 0, 1), 2)


@pytest.mark.parametrize("dimensions", [384, 128])
def test_dimensions_that_the_model_was_trained_for(dimensions: int) -> None:
    assert check_dimensions(dimensions, (384, 128)) == dimensions


@pytest.mark.parametrize("dimensions", [0, -1, 1, 129, 384.0, "384", True, None, [384]])
def test_other_dimensions_are_refused(dimensions: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_dimensions(dimensions, (384, 128, 1) if dimensions is True else (384, 128))
    assert caught.value.field == "dimensions"
    assert caught.value.problem.startswith("this model gives 384, 128")


def test_base64_is_that_of_little_endian_float32() -> None:
    assert to_base64(vector(1, -2)) == "AACAPwAAAMA="
    assert from_base64("AACAPwAAAMA=").tolist() == [1.0, -2.0]


@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_base64_gives_the_same_bits_back(values: Vector) -> None:
    back = from_base64(to_base64(values))
    assert back.dtype == np.float32
    assert back.tobytes() == values.tobytes()


def test_base64_of_a_strided_or_big_endian_vector() -> None:
    assert to_base64(vector(1, 9, -2, 9)[::2]) == "AACAPwAAAMA="
    assert to_base64(np.array([1, -2], dtype=">f4")) == "AACAPwAAAMA="


@pytest.mark.parametrize("text", ["AACAPw", "AACA", "AACAPw=\n=", "AACA Pw==", "é", "****"])
def test_other_text_is_not_a_vector(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - binascii.Error and numpy's ValueError say different things
        from_base64(text)
