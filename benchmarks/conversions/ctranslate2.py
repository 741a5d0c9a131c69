"""CTranslate2's int8, by its own converter."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.conversions.files import copy_tokenizer


def main(source: Path, out: Path) -> None:
    """Write model.bin and its configuration."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(source)).convert(str(out), quantization="int8", force=True)
    config = (out / "config.json").read_bytes()
    copy_tokenizer(source, out)
    (out / "config.json").write_bytes(config)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
