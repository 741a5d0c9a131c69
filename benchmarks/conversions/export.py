"""fp32 ONNX by sentence-transformers' and optimum's exporter."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.conversions.files import copy_tokenizer


def main(source: Path, out: Path) -> None:
    """Write onnx/model.onnx and what sentence-transformers needs around it."""
    from sentence_transformers import SentenceTransformer

    choices = {"export": True, "provider": "CPUExecutionProvider"}
    with TemporaryDirectory() as folder:
        saved = Path(folder)
        SentenceTransformer(str(source), device="cpu", backend="onnx", model_kwargs=choices).save_pretrained(str(saved))
        copy_tokenizer(saved, out)
        shutil.copytree(saved / "onnx", out / "onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
