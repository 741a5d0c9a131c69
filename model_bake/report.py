"""The certificate as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embakery.vectors import Vectors
from evaluation.page import heading, numbers, page, paragraph, table
from evaluation.plots import bars, histogram, scatter
from model_bake.certify import Fidelity

_LEAD = "How close the baked model is to the fp32 original, measured when it was baked."


def encoder_page(figures: Mapping[str, Any], fidelity: Fidelity) -> str:
    """Return an encoder's certificate."""
    cosine = figures["cosine"]
    error = 1 - fidelity.cosines.astype(np.float64)
    kept = np.round(fidelity.overlaps * 10)
    overlap = {f"{share}0%": float(np.mean(kept == share)) for share in range(10, min(7, int(kept.min())) - 1, -1)}
    parts = [
        numbers(
            {
                "mean cosine": f"{cosine['mean']:.5f}",
                "lowest cosine": f"{cosine['min']:.5f}",
                "of the ten nearest kept": f"{figures['neighbour_overlap_at_10']:.1%}",
                "equal bits in any batch": f"{figures['batch_invariant']} of {figures['inputs']}",
            }
        ),
        histogram({"texts": fidelity.cosines}, title="Cosine to the original", x_label="cosine"),
        scatter(
            fidelity.lengths.astype(np.float64),
            np.log10(np.maximum(error, 1e-9)),
            title="Error against length, with the running median",
            x_label="tokens",
            y_label="log10 of (1 - cosine)",
        ),
        bars(overlap, title="Nearest neighbours kept", x_label="share of texts that keep so many of their ten nearest"),
        heading("By length"),
        _spreads("tokens", figures["cosine_by_tokens"]),
        heading("By kind of text"),
        _spreads("kind", figures["cosine_by_kind"]),
        *_evaluation(figures),
        *_circumstances(figures),
    ]
    return page("Certificate", _LEAD, parts)


def cross_encoder_page(figures: Mapping[str, Any], original: Vectors, baked: Vectors) -> str:
    """Return a cross-encoder's certificate. original, baked: scores of the same pairs, float32 (n, labels)."""
    error, agreement = figures["score_error"], figures["rank_agreement"]
    parts = [
        numbers(
            {
                "mean rank agreement": f"{agreement['mean']:.4f}",
                "mean score error": f"{error['mean']:.2g}",
                "largest score error": f"{error['max']:.2g}",
                "same best document": f"{figures['same_best']} of {figures['queries']}",
                "equal bits in any batch": f"{figures['batch_invariant']} of {figures['inputs']}",
            }
        ),
        scatter(
            original.ravel().astype(np.float64),
            baked.ravel().astype(np.float64),
            title="Scores: original and baked",
            x_label="original",
            y_label="baked",
        ),
        histogram({"pairs": (baked - original).ravel()}, title="Score error", x_label="baked - original"),
        *_circumstances(figures),
    ]
    return page("Certificate of a cross-encoder", _LEAD, parts)


def _spreads(name: str, spreads: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[kind, *(f"{spread[figure]:.5f}" for figure in ("mean", "p1", "min"))] for kind, spread in spreads.items()]
    return table([name, "mean", "first percentile", "lowest"], rows)


def _evaluation(figures: Mapping[str, Any]) -> list[str]:
    if "evaluation" not in figures:
        return []
    rows = [
        [name, f"{value['original']:.4f}", f"{value['baked']:.4f}", f"{value['baked'] - value['original']:+.4f}"]
        for name, value in figures["evaluation"].items()
    ]
    return [heading("On given data"), table(["", "original", "baked", "difference"], rows)]


def _circumstances(figures: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    text = (
        f"Precision {figures['precision']}. Texts: held-out passages of this project and {figures['documentation']}; "
        f"seed {figures['seed']}. Machine {figures['machine']}; {versions}. Peak memory of the bake: below "
        f"{figures['peak_memory_gib_below']} GiB."
    )
    return [heading("How this was measured"), paragraph(text)]
