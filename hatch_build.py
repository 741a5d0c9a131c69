"""Puts the native engine's library into what pip installs. See embakery/engines/native/build.py.

EMBAKERY_TARGET=aarch64-linux builds the wheel for another machine.
"""

from __future__ import annotations

import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("embakery", "engines", "native")


class NativeLibraryHook(BuildHookInterface[Any]):
    """Compiles for the machine at hand. Where that fails, the package works with onnxruntime alone, and says so."""

    # Removed with this object, when the wheel is made.
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build beside the sources for an editable installation, into the wheel otherwise."""
        wanted, editable = os.environ.get("EMBAKERY_TARGET"), version == "editable"
        if wanted and editable:
            raise ValueError("EMBAKERY_TARGET is for wheels, not for an editable installation")
        builder = runpy.run_path(str(Path(self.root, NATIVE, "build.py")))
        target = builder["find_target"](wanted) if wanted else builder["this_target"]()
        if target is None:
            self.app.display_warning("no native engine for this machine: onnxruntime will serve")
            return
        self._scratch = None if editable else tempfile.TemporaryDirectory(prefix="embakery-wheel-")
        folder = Path(self.root, NATIVE) if self._scratch is None else Path(self._scratch.name)
        try:
            library = builder["build"](target, folder)
        except (RuntimeError, OSError) as error:
            if wanted:
                raise
            self.app.display_warning(f"the native engine was not built, onnxruntime will serve: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{target.tag}"
        if not editable:
            build_data["force_include"][str(library)] = str(NATIVE / library.name)
