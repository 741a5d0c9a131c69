"""embk_encode, called as nobody should: ids, lengths and memory. A status comes out, and nothing is written beyond."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from native_calls import (
    BAD_INPUT,
    BAD_LENGTH,
    BAD_OUTPUT,
    BAD_TOKEN,
    BAD_WORKSPACE,
    LEAST,
    MOST,
    MUTATIONS,
    OK,
    Encoding,
    Opening,
)
from native_models import SEED

from embakery.engines.native.library import TOKENS, default_library


def test_the_right_calls_are_right(opening: Opening, encoding: Encoding) -> None:
    assert opening.status() == OK
    assert encoding.status() == OK
    encoding.types = [0, 1, 0, 1, 0, 0, 1, 1]
    assert encoding.status() == OK


@pytest.mark.parametrize(
    ("change", "status"),
    [
        *[({"nulls": {name}}, BAD_INPUT) for name in ("model", "batch", "ids", "lengths", "output", "workspace")],
        *[({"rank": rank}, BAD_INPUT) for rank in (-1, 1, 64, MOST, LEAST)],
        *[({"team": team}, BAD_INPUT) for team in (0, -1, LEAST)],
        *[({"rank": 2, "team": 2}, BAD_INPUT), ({"rank": -1, "team": 2}, BAD_INPUT)],
        *[({"team": team}, BAD_WORKSPACE) for team in (2, 65, MOST)],
        *[({"texts": texts}, BAD_INPUT) for texts in (0, -1, LEAST, 1, 2)],
        *[({"tokens": tokens}, BAD_INPUT) for tokens in (0, -1, LEAST, 7, 9, MOST)],
        *[({"lengths": [5, length, 2]}, BAD_LENGTH) for length in (0, -1, 81, MOST, LEAST)],
        *[({"lengths": lengths}, BAD_INPUT) for lengths in ([5, 1, 1], [5, 1, 3], [80, 1, 2], [5, 2, 2])],
        *[({"ids": [token, 2, 3, 4, 5, 49, 0, 48]}, BAD_TOKEN) for token in (-1, 50, 51, 2**16, MOST, LEAST)],
        *[({"ids": [1, 2, 3, 4, 5, 49, 0, token]}, BAD_TOKEN) for token in (-1, 50, MOST, LEAST)],
        *[({"types": [0, 1, 0, 1, 0, 0, 1, token]}, BAD_TOKEN) for token in (-1, 2, MOST, LEAST)],
        *[({"kind": kind}, BAD_OUTPUT) for kind in (2, -1, MOST, TOKENS)],
        *[({"output_bytes": size}, BAD_OUTPUT) for size in (0, 1, 1175, 1177, 1180, 2352)],
        *[({"kind": TOKENS, "output_bytes": size}, BAD_OUTPUT) for size in (8 * 98 * 4, 8 * 64 * 4)],
        *[({"shift": shift}, BAD_WORKSPACE) for shift in (1, 4, 16, 32, 63)],
    ],
)
def test_encoding_refuses(encoding: Encoding, change: dict[str, Any], status: int) -> None:
    assert encoding.output_bytes == 1176
    for name, value in change.items():
        setattr(encoding, name, value)
    assert encoding.status() == status


@pytest.mark.parametrize("missing", [1, 4, 63, 64, 10**4])
def test_a_workspace_that_is_too_small(encoding: Encoding, missing: int) -> None:
    encoding.workspace_bytes -= missing
    assert encoding.status() == BAD_WORKSPACE


def test_tokens_into_memory_of_their_size(encoding: Encoding) -> None:
    encoding.kind, encoding.output_bytes = TOKENS, 8 * 49 * 4
    assert encoding.status() == OK


def test_a_model_without_types_takes_only_zeros(packs: dict[str, Path]) -> None:
    _, handle = Opening(packs["head4"]).open()
    encoding = Encoding(handle, 24, [1, 2], [2])
    encoding.types = [0, 0]
    assert encoding.status() == OK
    encoding.types = [0, 1]
    assert encoding.status() == BAD_TOKEN
    default_library().calls.embk_close(handle)


def test_calls_without_a_model(encoding: Encoding) -> None:
    calls = default_library().calls
    calls.embk_close(None)
    assert calls.embk_dimension(None) == 0
    assert calls.embk_workspace_bytes(None, 8, 1) == 0
    for tokens, team in (
        (0, 1),
        (-1, 1),
        (2**20 + 1, 1),
        (MOST, 1),
        (8, 0),
        (8, -1),
        (8, 65),
        (8, MOST),
        (LEAST, LEAST),
    ):
        assert calls.embk_workspace_bytes(encoding.handle, tokens, team) == 0
    assert calls.embk_workspace_bytes(encoding.handle, 2**20, 64) > 2**33


def test_a_wrong_call_waits_for_no_team(encoding: Encoding) -> None:
    """Every rank sees the same fault; one that waited for the others would wait for ever."""
    encoding.ids[0] = 50
    encoding.rank, encoding.team = 1, 3
    assert encoding.status() == BAD_TOKEN


def test_random_batches_with_one_fault(encoding: Encoding) -> None:
    """Each fault, somewhere in a random batch, has its own status; without it the batch is encoded."""
    draw = random.Random(SEED)
    for _ in range(MUTATIONS):
        encoding.lengths = [draw.choice((1, 2, draw.randint(1, 12))) for _ in range(draw.randint(1, 6))]
        encoding.tokens, encoding.texts = sum(encoding.lengths), len(encoding.lengths)
        encoding.ids = [draw.randrange(50) for _ in range(encoding.tokens)]
        encoding.types = draw.choice((None, [draw.randrange(2) for _ in encoding.ids]))
        encoding.output_bytes = encoding.texts * 98 * 4
        encoding.workspace_bytes = default_library().calls.embk_workspace_bytes(encoding.handle, encoding.tokens, 1)
        expected = draw.choice((no_fault, wrong_token, wrong_type, wrong_length, wrong_count))(draw, encoding)
        assert encoding.status() == expected


def wrong_token(draw: random.Random, encoding: Encoding) -> int:
    encoding.ids[draw.randrange(encoding.tokens)] = draw.choice((-1, 50, 2**24, MOST, LEAST, draw.randint(50, MOST)))
    return BAD_TOKEN


def wrong_type(draw: random.Random, encoding: Encoding) -> int:
    encoding.types = [0] * encoding.tokens
    encoding.types[draw.randrange(encoding.tokens)] = draw.choice((-1, 2, MOST, LEAST))
    return BAD_TOKEN


def wrong_length(draw: random.Random, encoding: Encoding) -> int:
    encoding.lengths[draw.randrange(encoding.texts)] = draw.choice((0, -1, 81, MOST, LEAST))
    return BAD_LENGTH


def wrong_count(draw: random.Random, encoding: Encoding) -> int:
    encoding.lengths[draw.randrange(encoding.texts)] += draw.randint(1, 60)
    return BAD_INPUT


def no_fault(draw: random.Random, encoding: Encoding) -> int:
    return OK
