"""onnxruntime and tokenizers in a function, without a framework: the session is made at import."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # noqa: TID251 - a peer, in an image of its own
from tokenizers import Tokenizer

MAX_TOKENS = 256

tokenizer = Tokenizer.from_file("/opt/model/tokenizer.json")
tokenizer.enable_truncation(MAX_TOKENS)
tokenizer.enable_padding()
session = onnxruntime.InferenceSession("/opt/model/onnx/model.onnx", providers=["CPUExecutionProvider"])
inputs = {each.name for each in session.get_inputs()}


def embed(texts: list[str]) -> npt.NDArray[np.float32]:
    """Return float32 (n, dim): the mean over tokens, normalized."""
    encodings = tokenizer.encode_batch(texts)
    feed = {
        "input_ids": np.array([each.ids for each in encodings], dtype=np.int64),
        "attention_mask": np.array([each.attention_mask for each in encodings], dtype=np.int64),
        "token_type_ids": np.array([each.type_ids for each in encodings], dtype=np.int64),
    }
    states = session.run(None, {name: value for name, value in feed.items() if name in inputs})[0]
    mask = feed["attention_mask"][:, :, None].astype(np.float32)
    means = (states * mask).sum(axis=1) / mask.sum(axis=1)
    vectors: npt.NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer POST /v1/embeddings."""
    body = json.loads(event["body"])
    vectors = embed(body["input"])
    data = [
        {"object": "embedding", "index": index, "embedding": vector.tolist()} for index, vector in enumerate(vectors)
    ]
    answer = {"object": "list", "data": data, "model": body["model"]}
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(answer)}
