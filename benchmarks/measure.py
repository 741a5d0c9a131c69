"""The measurements. Every one goes round the systems in a random order, a little of each at a time."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.adapters import Setting, Vectors
from benchmarks.corpora import SEED, Corpus
from benchmarks.lineup import Lineup, Ready, Start, note_failure
from benchmarks.process import SystemFailedError
from benchmarks.results import ColdStart, Fidelity

Settings = dict[str, Setting]


class Measurer:
    """Measures running systems. folder: for corpora and vectors, read and written by their processes."""

    def __init__(self, lineup: Lineup, folder: Path) -> None:
        self._lineup = lineup
        self._folder = folder
        self._draw = random.Random(SEED)  # noqa: S311 - not for secrets

    def tune(self, corpus: Corpus, texts: int, *, one_by_one: bool = False) -> Settings:
        """Let each system choose its setting for the corpus, on its first texts."""
        path = str(corpus.write(self._folder))
        settings = {}
        for name in self._lineup.names:
            if answer := self._lineup.ask(name, "tune", corpus=path, most=texts, one_by_one=one_by_one):
                settings[name] = answer["setting"]
                say("warm-up", corpus.name, name, _written(answer["setting"]))
        return settings

    def speed(self, corpus: Corpus, settings: Mapping[str, Setting], rounds: int) -> dict[str, list[float]]:
        """Return the seconds of each round."""
        path = str(corpus.write(self._folder))
        seconds: dict[str, list[float]] = {}
        for number in range(rounds):
            for name in self._shuffled():
                if answer := self._lineup.ask(name, "encode", corpus=path, setting=settings[name]):
                    seconds.setdefault(name, []).append(answer["seconds"])
                    rate = sum(corpus.tokens) / answer["seconds"]
                    say("speed", corpus.name, name, f"round {number + 1} of {rounds}  {rate:8,.0f} tokens/s")
        return seconds

    def fidelity(
        self, corpus: Corpus, settings: Mapping[str, Setting], reference: Vectors, alone: int
    ) -> dict[str, Fidelity]:
        """Compare vectors with the reference, and the bits of the first `alone` texts with those they have alone."""
        from model_bake.certify import cosine, spread  # by need: it imports onnx

        path, out = str(corpus.write(self._folder)), self._folder / "vectors.npy"
        found = {}
        for name in self._lineup.names:
            fields = {"corpus": path, "setting": settings[name], "out": str(out), "alone": alone}
            if answer := self._lineup.ask(name, "vectors", **fields):
                found[name] = Fidelity(spread(cosine(np.load(out), reference)), answer["same_bits"])
                say("fidelity", corpus.name, name, f"cosine {found[name].cosine['mean']:.4f}")
        return found

    def latency(self, corpus: Corpus, rounds: int) -> dict[str, list[float]]:
        """Return the seconds of each text, encoded one at a time, over all rounds."""
        path = str(corpus.write(self._folder))
        settings = self.tune(corpus, len(corpus.texts), one_by_one=True)
        seconds: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name in self._shuffled():
                if answer := self._lineup.ask(name, "one", corpus=path, setting=settings[name]):
                    seconds.setdefault(name, []).extend(answer["seconds"])
        for name, timed in seconds.items():
            say("latency", corpus.name, name, f"{np.median(timed) * 1000:.2f} ms")
        return seconds

    def _shuffled(self) -> list[str]:
        return self._draw.sample(self._lineup.names, len(self._lineup.names))


def cold_starts(
    entries: Sequence[Ready],
    start: Start,
    corpus: Path,
    settings: Mapping[str, Setting],
    repeats: int,
    failed: dict[str, str],
) -> dict[str, ColdStart]:
    """Start each system anew, `repeats` times in turns, up to its first vector; once also through a whole corpus."""
    draw = random.Random(SEED)  # noqa: S311 - not for secrets
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    for _ in range(repeats):
        for entry in draw.sample(entries, len(entries)):
            name = entry.system.name
            if name in failed:
                continue
            try:
                once = _start_once(entry, start, corpus if name not in peaks else None, settings.get(name))
            except SystemFailedError as error:
                note_failure(failed, name, error)
                continue
            seconds.setdefault(name, []).extend(once.seconds)
            peaks.setdefault(name, once.peak_bytes)
            say("start", "", name, f"{once.seconds[0]:.2f} s")
    return {name: ColdStart(tuple(timed), peaks[name]) for name, timed in seconds.items()}


def _start_once(entry: Ready, start: Start, corpus: Path | None, setting: Setting | None) -> ColdStart:
    started = time.perf_counter()
    with start(entry) as process:
        default = process.ask("load")["setting"]
        process.ask("first", setting=default)
        seconds = time.perf_counter() - started
        if corpus is not None:
            process.ask("encode", corpus=str(corpus), setting=default if setting is None else setting)
        return ColdStart((seconds,), process.ask("memory")["bytes"])


def say(what: str, corpus: str, system: str, figure: str) -> None:
    """Tell how far it is."""
    print(f"{what:<10} {corpus:<10} {system:<32} {figure}", file=sys.stderr)


def _written(setting: Setting) -> str:
    return " ".join(f"{name}={value}" for name, value in setting.items()) or "nothing to choose"
