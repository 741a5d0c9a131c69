"""How near the native engine comes to what the core can do, and where the time goes: one thread, no tokenization.

    python -m benchmarks.roofline [--artifact build/all-MiniLM-L6-v2]

Builds the library with a clock in it, measures the core's peak of 8-bit products before and after, and prints JSON. The
best of several passes counts. x86-64 with AVX-512 VNNI only: the peak is that of its instruction.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import make_corpora
from benchmarks.machine import busy_cores, circumstances
from embakery.artifact import PACK, TOKENIZER, Artifact
from embakery.engines.native.build import build, this_target
from embakery.engines.native.engine import CHUNK_TOKENS, packed_chunks
from embakery.engines.native.library import SENTENCES, Call, Library, Model
from embakery.engines.pack import Pack
from embakery.texts import TokenIds
from model_bake.corpus import standard_library_passages
from model_bake.samples import token_ids

STAGES = ("embedding", "projection", "attention", "output", "ffn_up", "ffn_down", "rounding", "head")
SIZES = {"short": 512, "mixed": 200, "long": 64}
PASSES = 12
FOLDER = Path("build/roofline")
# embk's struct team: the clock's ticks stand behind the first 64 bytes of a workspace.
_TICKS = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--artifact", type=Path, default=Path("build/all-MiniLM-L6-v2"))
    artifact = Artifact.load(parser.parse_args().artifact)
    target = this_target()
    if target is None:
        raise SystemExit("no native engine for this machine")
    library = Library(build(target, FOLDER, extra=("-DEMBK_PROFILE",)))
    pack = Pack.open(artifact.path / PACK)
    model, shape = Model(library, pack, library.isas[0]), pack.model
    corpora = make_corpora(artifact.path / TOKENIZER, standard_library_passages(), SIZES)
    peaks = [peak()]
    measured = {name: measure(model, token_ids(artifact.tokenizer(), corpus.texts)) for name, corpus in corpora.items()}
    peaks.append(peak())
    rows = {name: _row(shape, figures, max(peaks)) for name, figures in measured.items()}
    facts = {"isa": library.isas[0], "peak_gmac_per_s": peaks, "busy_cores": busy_cores()}
    print(json.dumps({**facts, "corpora": rows, **circumstances("numpy", "ziglang")}, indent=2))


def peak() -> float:
    """Return the core's most 8-bit products a second, in thousand millions."""
    program = FOLDER / "peak"
    source = Path(__file__).with_name("native") / "peak.c"
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-mcpu=icelake_server", str(source), "-o", str(program)]
    subprocess.run(command, check=True)  # noqa: S603 - our own words
    return float(subprocess.run([str(program.resolve())], check=True, capture_output=True, text=True).stdout)  # noqa: S603


def measure(model: Model, texts: Sequence[TokenIds]) -> Mapping[str, Any]:
    """Encode chunk by chunk on this thread; return the best pass's seconds and clock ticks by stage."""
    calls = [
        Call(model, [texts[index] for index in chunk], None, SENTENCES)
        for chunk in packed_chunks([len(ids) for ids in texts], CHUNK_TOKENS, threads=1)
    ]
    workspace = model.workspace(CHUNK_TOKENS, 1)
    ticks = (ctypes.c_uint64 * len(STAGES)).from_address(workspace.address + _TICKS)
    best: dict[str, Any] = {"seconds": float("inf")}
    for _ in range(PASSES):
        ctypes.memset(ticks, 0, ctypes.sizeof(ticks))
        started = time.perf_counter()
        for call in calls:
            model.encode(call, workspace)
        seconds = time.perf_counter() - started
        if seconds < best["seconds"]:
            best = {"seconds": seconds, "ticks": np.array(list(ticks), dtype=np.float64)}
    lengths = np.array([len(ids) for ids in texts], dtype=np.float64)
    return {**best, "tokens": float(lengths.sum()), "squares": float((lengths**2).sum())}


def products(shape: Mapping[str, Any], tokens: float, squares: float) -> Mapping[str, float]:
    """Return a token's 8-bit products: those of the model itself, and those for the values' low bytes."""
    hidden, layers = shape["hidden"], shape["layers"]
    linear = layers * (4 * hidden * hidden + 2 * hidden * shape["intermediate"])
    attention = layers * 2 * hidden * squares / tokens
    return {"linear": linear, "attention": attention, "low_bytes": layers * hidden * hidden}


def _row(shape: Mapping[str, Any], figures: Mapping[str, Any], most: float) -> Mapping[str, Any]:
    tokens, seconds = figures["tokens"], figures["seconds"]
    each = products(shape, tokens, figures["squares"])
    own = each["linear"] + each["attention"]
    rate = tokens / seconds / 1e9
    shares = figures["ticks"] / figures["ticks"].sum()
    return {
        "tokens_per_s": round(tokens / seconds),
        "million_products_a_token": {name: round(value / 1e6, 3) for name, value in each.items()},
        "share_of_peak": round(own * rate / most, 3),
        "share_of_peak_with_low_bytes": round((own + each["low_bytes"]) * rate / most, 3),
        "share_of_time": {name: round(float(share), 3) for name, share in zip(STAGES, shares, strict=True)},
    }


if __name__ == "__main__":
    main()
