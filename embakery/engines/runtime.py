"""onnxruntime with its telemetry off: import it from here, never directly.

Its official packages for Linux and macOS (1.29 and later) report every session to their maker and keep an identifier of
the device in the user's cache, unless the environment says otherwise when they are first imported. Neither belongs in a
process that reads other people's texts. Who wants to report sets ORT_DISABLE_TELEMETRY=0.
"""

from __future__ import annotations

import os

from embakery.errors import ConfigurationError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime  # noqa: TID251 - after the line above
except ModuleNotFoundError as error:
    raise ConfigurationError(
        "onnxruntime is not installed: pip install 'embakery[onnx]', or build the image with EXTRAS=onnx"
    ) from error

__all__ = ["onnxruntime"]
