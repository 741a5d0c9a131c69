"""Tokenizer files that say the same to every library: cut at 256 tokens, pad to the longest of a batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.adapters import MAX_TOKENS

_COPIED = (
    "*.json",
    "*.txt",
    "1_Pooling/config.json",
)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy configuration and tokenizer, never weights.

    The original's tokenizer.json pads every text to 128 tokens and cuts there, which would be neither fair nor right.
    """
    for path in (path for pattern in _COPIED for path in source.glob(pattern)):
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _change(out / "tokenizer.json", truncation=None, padding=None)
    _change(out / "tokenizer_config.json", max_length=MAX_TOKENS, model_max_length=MAX_TOKENS)
    _change(out / "sentence_bert_config.json", max_seq_length=MAX_TOKENS)


def _change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | values, ensure_ascii=False), encoding="utf-8")
