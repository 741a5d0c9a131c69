"""sentence-transformers in a function: the model is loaded at import, which Lambda counts as INIT."""

from __future__ import annotations

import json
from typing import Any

from sentence_transformers import SentenceTransformer

model = SentenceTransformer("/opt/model", device="cpu")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer POST /v1/embeddings."""
    body = json.loads(event["body"])
    vectors = model.encode(body["input"], normalize_embeddings=True, show_progress_bar=False)
    data = [
        {"object": "embedding", "index": index, "embedding": vector.tolist()} for index, vector in enumerate(vectors)
    ]
    answer = {"object": "list", "data": data, "model": body["model"]}
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(answer)}
