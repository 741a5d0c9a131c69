"""Ratios, tables, chart, the choice of a setting, the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from bench_fakes import fake_system

from benchmarks.adapters.padded import PaddedEncoder, padded, pooled
from benchmarks.chart import chart
from benchmarks.compare import parse
from benchmarks.contest import Found, as_json
from benchmarks.corpora import Corpus
from benchmarks.results import ColdStart, Row, latency_json, ratios
from benchmarks.systems import SYSTEMS
from benchmarks.table import markdown
from benchmarks.tuning import best_setting
from model_bake.source import DEFAULT_MODEL, find_model

COSINE = {"mean": 0.9988, "p1": 0.998, "min": 0.9975}


def row(system: str, corpus: str, *seconds: float) -> Row:
    return Row(system, corpus, texts=10, tokens=100, setting={}, seconds=seconds, cosine=COSINE)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    rows = [row("ours", "short", 1.0, 2.0, 1.0), row("peer", "short", 3.0, 4.0, 10.0), row("peer", "long", 1.0)]
    assert ratios(rows, "ours") == {"peer": {"short": 3.0}}


def test_a_peer_that_died_after_a_round_keeps_that_rounds_ratio() -> None:
    assert ratios([row("ours", "short", 1.0, 2.0), row("peer", "short", 3.0)], "ours") == {"peer": {"short": 3.0}}


def test_a_row_tells_median_and_best() -> None:
    said = row("ours", "short", 1.0, 2.0, 4.0).as_json()
    assert (said["texts_per_s"], said["texts_per_s_best"]) == (5.0, 10.0)
    assert (said["tokens_per_s"], said["tokens_per_s_best"]) == (50, 100)


def test_latency_is_in_milliseconds() -> None:
    assert latency_json([each / 1000 for each in range(1, 102)]) == {"p50_ms": 51.0, "p95_ms": 96.0}


@pytest.fixture
def results() -> dict[str, Any]:
    plan, _ = parse(["--quick", "--corpus", "short"])
    corpora = {name: Corpus(name, ("a", "b"), (12, 12)) for name in ("short", "mixed", "long")}
    found = Found(
        rows=[row("ours", "short", 0.01), row("peer", "short", 0.04)],
        same_bits={"ours": 2, "peer": 0},
        latency={"ours": {"12_tokens": latency_json([0.001] * 3), "256_tokens": latency_json([0.01] * 3)}},
        starts={"ours": ColdStart((0.3, 0.2, 0.5), peak_bytes=90_000_000)},
        failed={"absent": "environment absent: no such package"},
    )
    said = as_json(plan, [fake_system("ours"), fake_system("peer")], corpora, found)
    # In a real run the command line's own systems are the entries.
    return said | {"ours": "ours", "ratios": ratios(found.rows, "ours")}


def test_the_table_says_what_was_measured_and_what_was_not(results: Mapping[str, Any]) -> None:
    page = markdown(results)
    assert "| Ours | 10.0 (10.0) |" in page
    assert "| Peer | 4.00 |" in page
    assert "| Ours | 1.00 / 1.00 | 10.00 / 10.00 | 0.30 (0.20) | 90 | 0 | 0 | 2 of 2 |" in page
    assert "| Peer | - | - | - | - | 0 | 0 | 0 of 2 |" in page
    assert "- absent: environment absent: no such package" in page


def test_the_chart_stands_alone(results: Mapping[str, Any]) -> None:
    root = ElementTree.fromstring(chart(results))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.index("Ours") < texts.index("Peer")
    assert "10.0" in texts


def test_each_name_of_a_setting_gets_its_fastest_value() -> None:
    def seconds(setting: Mapping[str, Any]) -> float:
        return {1: 3.0, 2: 2.0}[setting["streams"]] + {16: 1.0, 4: 0.5, 8: 0.0}[setting["batch_size"]]

    assert best_setting({"streams": (1, 2), "batch_size": (16, 4, 8)}, seconds) == {"streams": 2, "batch_size": 8}


def test_a_slow_moment_does_not_choose() -> None:
    timed = {16: iter([1.2, 0.5]), 4: iter([1.0, 1.0])}
    assert best_setting({"batch_size": (16, 4)}, lambda setting: next(timed[setting["batch_size"]])) == {
        "batch_size": 16
    }


def test_nothing_to_choose_is_not_timed() -> None:
    assert best_setting({}, lambda _: math.nan) == {}


def test_padding_and_pooling_leave_padding_out() -> None:
    ids, mask = padded([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    hidden = np.array([[[3, 0], [0, 4], [0, 0]], [[0, 2], [9, 9], [9, 9]]], dtype=np.float32)
    assert np.allclose(pooled(hidden, [[5, 6, 7], [8]]), [[0.6, 0.8], [0.0, 1.0]])


@pytest.mark.parametrize("streams", [1, 2])
def test_batches_are_sorted_by_length_and_vectors_are_not(streams: int) -> None:
    seen = []

    def session(ids: list[list[int]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        seen.append([len(row) for row in ids])
        hidden = np.zeros((len(ids), max(map(len, ids)), 2), dtype=np.float32)
        hidden[..., 0], hidden[..., 1] = 1, np.array([len(row) for row in ids])[:, None]
        return hidden

    encoder = PaddedEncoder(find_model(DEFAULT_MODEL).folder, 2, lambda streams: session)
    vectors = encoder.encode(["one", "one two three", "one two"], {"streams": streams, "batch_size": 2})
    assert sorted(seen, reverse=True) == [[5, 4], [3]]
    assert np.allclose(vectors[:, 1] / vectors[:, 0], [3, 5, 4])


def test_the_command_line_restricts_peers_but_never_ours() -> None:
    plan, out = parse(["--against", "openvino-int8", "--threads", "1", "--rounds", "9", "--out", "here"])
    assert [system.name for system in plan.systems] == ["embakery-native", "embakery-onnx", "openvino-int8"]
    assert (plan.threads, plan.effort.rounds, out) == (1, 9, Path("here"))
    assert plan.corpora == ("short", "mixed", "long")


def test_the_list_names_every_system(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [system.name for system in SYSTEMS]
