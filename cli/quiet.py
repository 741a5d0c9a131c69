"""Keeps the libraries of the bake from talking over its own report."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Silence progress bars and notices. To be called before torch and transformers are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("transformers", "sentence_transformers", "optimum"):
        logging.getLogger(name).setLevel(logging.ERROR)
