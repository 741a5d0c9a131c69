"""make sam-test: the deployed image under the SAM CLI; prints a transcript and one line `SAM {json}`.

python tests/container/run_sam.py [--base-image IMAGE] [--artifact FOLDER] [--only EVENT.json]

sam validate --lint; sam build; sam local invoke of every function with every file of events/, against the emulated AWS
and Redis; sam local start-api called by a client; sam local start-lambda fed by the local event source mapping.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from lambda_world import EVENTS, LambdaWorld, lambda_world
from sam_cli import BUILD, ROOT, SamFailedError, SamLocal, sam, tell, write_variables
from sam_events import FUNCTIONS, problem_of, wanted_vectors
from sam_world import container_variables

from embakery import Embedder
from embakery.vectors import from_base64, to_base64
from local.environment import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from local.errors import FunctionError
from local.event_source_mapping import EventSourceMapping, MappingSettings
from local.sqs import SqsQueue

_PATIENCE_SECONDS = 120
_MESSAGES = 40


class SamFunction:
    """A function behind `sam local start-lambda`, for the event source mapping."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._client = boto3.client(
            "lambda",
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
            config=Config(read_timeout=_PATIENCE_SECONDS, retries={"total_max_attempts": 1}),
        )

    def invoke(self, event: object) -> Any:
        """Invoke and return the response. Raises FunctionError."""
        answer = self._client.invoke(FunctionName=self._name, Payload=json.dumps(event))
        content = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise FunctionError(
                self._name,
                error_type=content.get("errorType", "Unknown"),
                error_message=content.get("errorMessage", ""),
            )
        return content


def main() -> int:
    """Run everything; return 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-image", default="python:3.11-slim-bookworm")
    parser.add_argument("--artifact", type=Path, default=Path("build/all-MiniLM-L6-v2"))
    parser.add_argument("--template", default="template.yaml")
    parser.add_argument("--only", action="append", default=[])
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        counts = run(arguments.template, arguments.base_image, arguments.artifact, arguments.only)
    except SamFailedError as error:
        print(error, file=sys.stderr)
        return 1
    tell(f"SAM {json.dumps(counts | {'seconds': round(time.monotonic() - began)})}")
    return 1 if counts["problems"] else 0


def run(template: str, base_image: str, artifact: Path, only: Sequence[str]) -> dict[str, int]:
    """Run every step and count. Raises SamFailedError."""
    sam("validate", "--lint", "--template", template, "--region", REGION)
    overrides = [
        f"ParameterKey=BaseImage,ParameterValue={base_image}",
        f"ParameterKey=Artifact,ParameterValue={artifact}",
    ]
    sam("build", "--template", template, "--build-dir", str(BUILD), "--parameter-overrides", *overrides)
    embedder = Embedder.load(ROOT / artifact)
    with lambda_world(ROOT / artifact) as world, container_variables(world) as there:
        variables = BUILD / "variables.json"
        write_variables(BUILD / "template.yaml", variables, there)
        files = [file for file in sorted(EVENTS.glob("*.json")) if not only or file.name in only]
        local = SamLocal(variables, world.aws_url)
        problems = invoke_all(local, files) + check_written(embedder, world, files)
        if not only:
            problems += start_api(local, embedder) + start_lambda(local, embedder, world)
    return {
        "functions": len(FUNCTIONS),
        "events": len(files),
        "invocations": len(files) * len(FUNCTIONS),
        "problems": problems,
    }


def invoke_all(local: SamLocal, files: Sequence[Path]) -> int:
    """Invoke every function with every event, each in a container of its own; return the number of problems."""
    problems = 0
    for function in FUNCTIONS.values():
        for file in files:
            problem = problem_of(function, file.stem, local.invoke(function, file))
            problems += problem is not None
            tell(f"  {function} {file.name}: {problem or 'as it should be'}")
    return problems


def check_written(embedder: Embedder, world: LambdaWorld, files: Sequence[Path]) -> int:
    """Look for the vectors that the events' messages ask for; return the number of those not written bit for bit."""
    expected = {key: vector for file in files for key, vector in wanted_vectors(embedder, file.stem).items()}
    rows = world.rows()
    right = [key for key in expected if key in rows and rows[key]["vector"] == to_base64(expected[key])]
    tell(
        f"  {len(right)} of {len(expected)} vectors that the events ask for are in the bucket, with the library's bits"
    )
    return len(expected) - len(right)


def start_api(local: SamLocal, embedder: Embedder) -> int:
    """Call the API as a client does; return 1 unless its vectors are those of the library, bit for bit."""
    texts = ["What is a visibility timeout?", "Der Umschlag ist versiegelt."]
    body = json.dumps({"input": texts, "encoding_format": "base64"}).encode()
    with local.server("start-api", BUILD) as url:
        for _ in range(2):
            request = urllib.request.Request(
                f"{url}/v1/embeddings", data=body, headers={"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:
                data = json.loads(answer.read())["data"]
        with urllib.request.urlopen(f"{url}/health", timeout=_PATIENCE_SECONDS) as answer:
            status = json.loads(answer.read())["status"]
    same = b"".join(from_base64(item["embedding"]).tobytes() for item in data) == embedder.embed(texts).tobytes()
    tell(f"  POST /v1/embeddings twice: {'the bits of the library' if same else 'OTHER BITS'}; GET /health: {status}")
    return int(not same or status != "ok")


def start_lambda(local: SamLocal, embedder: Embedder, world: LambdaWorld) -> int:
    """Send documents to the queue, from where the mapping feeds the function; return 1 unless all are written right."""
    queue = world.resources.documents
    texts = {
        f"sam-{number}-{uuid.uuid4().hex[:8]}": f"message {number} through the queue" for number in range(_MESSAGES)
    }
    for document_id, text in texts.items():
        message = {"v": 1, "documents": [{"id": document_id, "text": text}]}
        world.clients.sqs.send_message(QueueUrl=queue.url, MessageBody=json.dumps(message))
    with local.server("start-lambda", BUILD) as url:
        mapping = EventSourceMapping(
            MappingSettings(queue_arn=queue.arn),
            queue=SqsQueue(world.clients.sqs, queue.url),
            function=SamFunction(FUNCTIONS["sqs"], url),
            log=lambda line: tell(f"  mapping: {line}"),
        )
        mapping.start()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while mapping.statistics.deleted < len(texts) and time.monotonic() < deadline:
            time.sleep(0.2)
        mapping.stop(timeout_seconds=_PATIENCE_SECONDS)
    rows = world.rows()
    expected = dict(zip(texts, embedder.embed(list(texts.values())), strict=True))
    right = sum(
        document_id in rows and from_base64(rows[document_id]["vector"]).tobytes() == vector.tobytes()
        for document_id, vector in expected.items()
    )
    tell(f"  {len(texts)} messages, {mapping.statistics.batches} batches: {right} written with the bits of the library")
    return int(right != len(texts))


if __name__ == "__main__":
    sys.exit(main())
