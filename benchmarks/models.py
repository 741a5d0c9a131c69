"""The default model in the form that each system takes, made once under build/bench/ from the files of its package."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import BUILD, ROOT, prepare_environment, quiet_environment
from benchmarks.process import SystemFailedError
from model_bake.source import DEFAULT_MODEL, find_model

ARTIFACT = ROOT / "build" / DEFAULT_MODEL
_STAMP = ".made"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is made: by a module of conversions/, in an environment, from another model."""

    source: str
    environment: str
    conversion: str
    arguments: tuple[str, ...] = ()

    def digest(self) -> str:
        """Tell recipes apart, and so stale models from fresh ones."""
        requirements = ROOT / "benchmarks" / "requirements" / f"{self.environment}.txt"
        modules = sorted((ROOT / "benchmarks" / "conversions").glob("*.py"))
        parts = [path.read_bytes() for path in modules if path.stem in {self.conversion, "files"}]
        return hashlib.sha256(b"".join([repr(self).encode(), requirements.read_bytes(), *parts])).hexdigest()


RECIPES = {
    "onnx-fp32": Recipe("original", "sentence-transformers-onnx", "export"),
    "onnx-int8": Recipe("onnx-fp32", "sentence-transformers-onnx", "onnxruntime"),
    "openvino-int8": Recipe("onnx-fp32", "openvino-conversion", "openvino", ("int8",)),
    "openvino-int8-weights": Recipe("onnx-fp32", "openvino-conversion", "openvino", ("weights",)),
    "ctranslate2-int8": Recipe("original", "ctranslate2-conversion", "ctranslate2"),
}


def prepare_model(name: str) -> Path:
    """Return a model's folder; make it if need be. `original` and `artifact` are there. Raises SystemFailedError."""
    if name == "original":
        return find_model(DEFAULT_MODEL).folder
    if name == "artifact":
        return ARTIFACT
    folder, recipe = BUILD / "models" / name, RECIPES[name]
    stamp = folder / _STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == recipe.digest():
        return folder
    source = prepare_model(recipe.source)
    environment = prepare_environment(recipe.environment)
    print(f"set-up: model {name}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module = f"benchmarks.conversions.{recipe.conversion}"
    command = [str(environment.python), "-m", module, str(source), str(folder), *recipe.arguments]
    done = subprocess.run(command, cwd=ROOT, env=quiet_environment(2), capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode != 0:
        raise SystemFailedError(f"model {name}: {'; '.join(done.stderr.splitlines()[-2:])}")
    stamp.write_text(recipe.digest(), encoding="utf-8")
    return folder
