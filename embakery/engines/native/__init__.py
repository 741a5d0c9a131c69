"""The `native` engine: our own C kernel for the BERT family, the same bits on every CPU.

Texts run packed, one after another, without padding. Scales are per token, integer sums are exact, and every
floating-point step has one order, written down in C: so a vector does not depend on what it was batched with, on the
number of threads, or on the instruction set.
"""

from __future__ import annotations

# Names the numeric rules of the C sources: whoever changes a vector's bits changes it, and with it the space.
CONTRACT = "embakery-native/1"
