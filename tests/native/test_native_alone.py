"""An artifact that carries one engine of two, as an image does, and an environment without onnxruntime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embakery import Embedder
from embakery.artifact import ENGINE_FILES, Artifact
from embakery.errors import ConfigurationError, DigestMismatchError

TEXT = "carried as far as it is needed"


@pytest.fixture
def carried(default_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_artifact, tmp_path / "carried"))


def leave_out(folder: Path, engine: str) -> None:
    for name in ENGINE_FILES[engine]:
        (folder / name).unlink()


@pytest.mark.parametrize(("kept", "left_out"), [("native", "onnx"), ("onnx", "native")])
def test_one_engine_serves_the_same_bits_without_the_other(
    carried: Path, default_artifact: Path, kept: str, left_out: str
) -> None:
    leave_out(carried, left_out)
    alone, whole = Embedder.load(carried), Embedder.load(default_artifact, engine=kept)
    assert (alone.engine.name, alone.manifest.space_id) == (kept, whole.manifest.space_id)
    assert alone.embed([TEXT]).tobytes() == whole.embed([TEXT]).tobytes()
    with pytest.raises(ConfigurationError, match=f"engine {left_out}: the artifact holds no files for it$"):
        Embedder.load(carried, engine=left_out)


def test_half_of_an_engine_is_a_file_missing(carried: Path) -> None:
    (carried / "golden.npz").unlink()
    with pytest.raises(DigestMismatchError, match=r"^golden\.npz: missing"):
        Artifact.load(carried)


def test_no_engine_at_all_is_a_file_missing(carried: Path) -> None:
    leave_out(carried, "onnx")
    leave_out(carried, "native")
    with pytest.raises(DigestMismatchError, match=r"^encoder\.onnx: missing"):
        Artifact.load(carried)


def test_what_is_carried_is_still_checked(carried: Path) -> None:
    leave_out(carried, "onnx")
    pack = bytearray((carried / "encoder.pack").read_bytes())
    pack[-1] ^= 1
    (carried / "encoder.pack").write_bytes(pack)
    with pytest.raises(DigestMismatchError, match=r"^encoder\.pack: its sha256 differs"):
        Artifact.load(carried)


# onnxruntime stands in the development environment: a finder that denies it stands for an image without it.
WITHOUT_ONNXRUNTIME = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'")
sys.meta_path.insert(0, Absent())
from embakery import Embedder
from embakery.errors import ConfigurationError
try:
    print(Embedder.load({artifact!r}, engine={engine!r}).engine.name)
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("auto", "native\n"),
        (
            "onnx",
            "onnxruntime is not installed: pip install 'embakery[onnx]', or build the image with EXTRAS=onnx\n",
        ),
    ],
)
def test_the_native_engine_needs_no_onnxruntime(default_artifact: Path, engine: str, said: str) -> None:
    script = WITHOUT_ONNXRUNTIME.format(artifact=str(default_artifact), engine=engine)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == said
