"""Tokens a second of the baked artifact against sentence-transformers in fp32, tokenization included, in one run.

    python -m benchmarks.encode [--artifact build/all-MiniLM-L6-v2]

Rounds are interleaved, since a shared machine's speed drifts; the best round of each counts. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from embakery import Embedder
from model_bake.corpus import describe, standard_library_passages
from model_bake.source import DEFAULT_MODEL, find_model

SEED = 20261123
TEXTS = 600
ROUNDS = 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--artifact", type=Path, default=Path("build/all-MiniLM-L6-v2"))
    artifact = parser.parse_args().artifact
    texts = [passage.text for passage in random.Random(SEED).sample(standard_library_passages(), TEXTS)]  # noqa: S311
    embedder = Embedder.load(artifact)
    tokens = sum(len(embedder.tokenize(text).ids) for text in texts)
    systems: dict[str, Callable[[Sequence[str]], object]] = {
        "embakery onnx int8": embedder.embed,
        "sentence-transformers torch fp32": _reference(),
    }
    best = dict.fromkeys(systems, 0.0)
    for _ in range(ROUNDS):
        for name, encode in systems.items():
            started = time.perf_counter()
            encode(texts)
            best[name] = max(best[name], tokens / (time.perf_counter() - started))
    ours, peer = best.values()
    figures = {"tokens_per_s": {name: round(value) for name, value in best.items()}, "ratio": round(ours / peer, 2)}
    print(json.dumps(figures | _circumstances(texts, tokens), indent=2))


def _reference() -> Callable[[Sequence[str]], object]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_model(DEFAULT_MODEL).folder), device="cpu")
    return lambda texts: model.encode(list(texts), batch_size=32, show_progress_bar=False)


def _circumstances(texts: Sequence[str], tokens: int) -> dict[str, object]:
    return {
        "corpus": f"{len(texts)} of {describe()}, {tokens} tokens",
        "seed": SEED,
        "machine": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("onnxruntime", "tokenizers", "torch", "sentence-transformers")},
    }


def _processor() -> str:
    """Name the CPU and the instruction sets that matter here, where the system says."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in fields.items()}
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
    flags = [flag for flag in wanted if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.processor())} ({', '.join(flags)})"


if __name__ == "__main__":
    main()
