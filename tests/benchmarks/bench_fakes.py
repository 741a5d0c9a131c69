"""A system small enough for tests: a text's vector is made of its length. An adapter, as the worker imports them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.adapters import Axes, Setting, Vectors
from benchmarks.lineup import Ready
from benchmarks.process import SystemProcess
from benchmarks.systems import System

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class LengthEncoder:
    """options: `dies_at`, a number of texts that ends the process; `fails`, which refuses to load."""

    axes: Axes = {"batch_size": (2, 4)}  # noqa: RUF012 - never changed

    def __init__(self, options: Mapping[str, str]) -> None:
        print("libraries print what they like")
        if "fails" in options:
            raise ValueError(options["fails"])
        self._dies_at = int(options.get("dies_at", -1))

    def encode(self, texts: Sequence[str], setting: Setting) -> Vectors:
        if len(texts) == self._dies_at:
            print("out of luck", file=sys.stderr)
            sys.stderr.flush()
            os._exit(7)
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def open_encoder(model: Path, threads: int, options: Mapping[str, str]) -> LengthEncoder:
    return LengthEncoder(options)


def fake_system(name: str, **options: str) -> Ready:
    system = System(
        name=name,
        title=name.title(),
        environment="none",
        model="none",
        adapter="bench_fakes",
        choices="none",
        packages=(),
        options=options,
        is_ours=name == "ours",
    )
    return Ready(system, Path(sys.executable), Path())


def start(entry: Ready, log: Path) -> SystemProcess:
    command = (str(entry.python), "-m", "benchmarks.worker", entry.system.adapter, "model", "1")
    return SystemProcess(
        [*command, json.dumps(dict(entry.system.options))],
        folder=ROOT,
        environment=os.environ | {"PYTHONPATH": str(HERE)},
        log=log / f"{entry.system.name}.log",
    )
