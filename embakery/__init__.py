"""Embakery: the same text gets the same bits.

>>> from embakery import Embedder
>>> embedder = Embedder.load("build/all-MiniLM-L6-v2")
>>> embedder.embed(["hello world"]).shape
(1, 384)
"""

from embakery.cross_encoder import CrossEncoder
from embakery.embed import Embedder
from embakery.embedded import Embedded
from embakery.errors import (
    ArtifactError,
    ConfigurationError,
    EmbakeryError,
    EncodingError,
    InvalidRequestError,
    UnavailableError,
)
from embakery.rerank import Ranked

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "ConfigurationError",
    "CrossEncoder",
    "EmbakeryError",
    "Embedded",
    "Embedder",
    "EncodingError",
    "InvalidRequestError",
    "Ranked",
    "UnavailableError",
]
