"""Tokens a second of the baked artifact against sentence-transformers in fp32, tokenization included, in one run.

    python -m benchmarks.encode [--artifact build/all-MiniLM-L6-v2]

Rounds are interleaved, since a shared machine's speed drifts; the best round of each counts. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine import circumstances
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
    figures: dict[str, object] = {
        "tokens_per_s": {name: round(value) for name, value in best.items()},
        "ratio": round(ours / peer, 2),
    }
    figures |= {"corpus": f"{len(texts)} of {describe()}, {tokens} tokens", "seed": SEED}
    figures |= circumstances("onnxruntime", "tokenizers", "torch", "sentence-transformers")
    print(json.dumps(figures, indent=2))


def _reference() -> Callable[[Sequence[str]], object]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_model(DEFAULT_MODEL).folder), device="cpu")
    return lambda texts: model.encode(list(texts), batch_size=32, show_progress_bar=False)


if __name__ == "__main__":
    main()
