"""The golden check: whether this machine computes the bits of the bake."""

from __future__ import annotations

import logging

from embakery.artifact import Golden, Manifest
from embakery.errors import GoldenMismatchError
from embakery.vectors import Vectors

log = logging.getLogger("embakery")


def matches_golden(computed: Vectors, golden: Golden, manifest: Manifest) -> bool:
    """Say whether `computed` from the golden inputs is bit for bit what the bake made of them; log it if not."""
    matches = computed.tobytes() == golden.vectors.tobytes()
    if not matches:
        error = golden_error(manifest)
        extra = {"space_id": manifest.space_id, "code": error.code, "reason": str(error)}
        log.error("golden_mismatch", extra=extra)
    return matches


def golden_error(manifest: Manifest) -> GoldenMismatchError:
    """Return the error that says why nothing is written."""
    return GoldenMismatchError(
        f"this machine computes other bits than those baked into space {manifest.space_id}: "
        "nothing is written; bake the model on this kind of CPU, or run where it was baked"
    )
