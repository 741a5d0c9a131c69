"""Workers and the driver's side of them, with a tiny system of our own."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from bench_fakes import fake_system, start

from benchmarks.corpora import Corpus
from benchmarks.lineup import Lineup, Start
from benchmarks.measure import Measurer, cold_starts
from benchmarks.process import SystemFailedError

TEXTS = ("a", "bbb", "cc", "dddd", "ee")
CORPUS = Corpus("short", TEXTS, tokens=(3, 3, 3, 3, 3))


@pytest.fixture
def starts(tmp_path: Path) -> Start:
    return functools.partial(start, log=tmp_path / "logs")


def test_a_worker_answers_each_request(starts: Start, tmp_path: Path) -> None:
    corpus, out = str(CORPUS.write(tmp_path)), tmp_path / "vectors.npy"
    with starts(fake_system("fake")) as process:
        assert process.ask("load") == {"setting": {"batch_size": 2}}
        assert process.ask("first", setting={}) == {}
        assert process.ask("tune", corpus=corpus, most=3)["setting"]["batch_size"] in {2, 4}
        assert process.ask("tune", corpus=corpus, most=3, one_by_one=True)["setting"]["batch_size"] in {2, 4}
        assert process.ask("encode", corpus=corpus, setting={})["seconds"] > 0
        assert len(process.ask("one", corpus=corpus, setting={})["seconds"]) == 5
        assert process.ask("memory")["bytes"] > 1_000_000
        assert process.ask("vectors", corpus=corpus, setting={}, out=str(out), alone=4) == {"same_bits": 4}
    assert np.load(out)[:, 0].tolist() == [1, 3, 2, 4, 2]


def test_what_a_worker_cannot_do_is_said(starts: Start) -> None:
    with starts(fake_system("fake", fails="no such model")) as process:
        with pytest.raises(SystemFailedError, match=r"^load: ValueError: no such model$"):
            process.ask("load")
        with pytest.raises(SystemFailedError, match=r"^dance: AttributeError"):
            process.ask("dance")


def test_a_worker_that_dies_leaves_its_last_words(starts: Start, tmp_path: Path) -> None:
    with starts(fake_system("fake", dies_at="5")) as process:
        process.ask("load")
        with pytest.raises(
            SystemFailedError, match=r"^encode: the process ended with code 7; libraries .*; out of luck$"
        ):
            process.ask("encode", corpus=str(CORPUS.write(tmp_path)), setting={})


def test_a_silent_worker_is_given_up(starts: Start) -> None:
    with starts(fake_system("fake")) as process, pytest.raises(SystemFailedError, match="no answer within 0 s"):
        process.ask("load", timeout=0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_worker_stands_still_between_requests(starts: Start) -> None:
    with starts(fake_system("fake")) as process:
        process.ask("load")
        status = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert status is not None
    assert status.si_status == signal.SIGSTOP


def test_a_system_that_dies_in_a_round_is_named_and_the_others_go_on(starts: Start, tmp_path: Path) -> None:
    failed: dict[str, str] = {}
    entries = [fake_system("ours"), fake_system("frail", dies_at="5"), fake_system("absent", fails="not installed")]
    with Lineup(entries, starts, failed) as lineup:
        assert lineup.names == ["ours", "frail"]
        measurer = Measurer(lineup, tmp_path)
        settings = measurer.tune(CORPUS, texts=3)
        seconds = measurer.speed(CORPUS, settings, rounds=2)
        fidelity = measurer.fidelity(CORPUS, settings, np.ones((5, 2), dtype=np.float32), alone=2)
        latency = measurer.latency(CORPUS, rounds=2)
    assert list(seconds) == ["ours"]
    assert len(seconds["ours"]) == 2
    assert fidelity["ours"].same_bits == 2
    assert len(latency["ours"]) == 2 * len(TEXTS)
    assert failed["absent"] == "load: ValueError: not installed"
    assert failed["frail"].startswith("encode: the process ended with code 7; ")


def test_cold_starts_are_fresh_processes(starts: Start, tmp_path: Path) -> None:
    failed: dict[str, str] = {}
    entries = [fake_system("ours"), fake_system("frail", dies_at="5")]
    found = cold_starts(entries, starts, CORPUS.write(tmp_path), {}, 2, failed)
    assert len(found["ours"].seconds) == 2
    assert found["ours"].peak_bytes > 1_000_000
    assert list(failed) == ["frail"]


def test_corpora_reach_workers_as_json(tmp_path: Path) -> None:
    assert json.loads(CORPUS.write(tmp_path).read_text()) == list(TEXTS)
