"""The queue's function in its image at each of Lambda's memory sizes: does it fit, how fast, for how many dollars.

    python -m benchmarks.deployed --image embakery:latest [--memory 256 512 1024 1769 3538] [--batches 3] [--out FILE]

Containers have Lambda's limits and user; S3 is emulated on this machine, on the cores that are left. No cache. For each
size, and each in a new container with the page cache dropped before (where that is allowed), so that every page that
it needs is charged to it:

    usual    10 messages x 100 documents of 100 tokens; then the same again, timed: documents a second
    short    10 messages x 100 documents of 12 tokens
    largest  6 messages x 100 documents of 9,900 characters, near the 6 MB that Lambda gives a function at once
    rerank   10 messages x one query with 100 documents of 100 tokens

Dollars are Lambda's alone, of warm invocations with full batches. Prints a table; writes results/deployed.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.containers import Container, Size, docker
from benchmarks.containers_api import RuntimeApi
from benchmarks.containers_events import BATCHES, DOCUMENTS, MESSAGES, Event, Texts, cut_texts, usual_batch
from benchmarks.containers_memory import drop_page_cache
from benchmarks.environments import ROOT
from benchmarks.machine import busy_cores, circumstances
from benchmarks.models import ARTIFACT
from benchmarks.process import SystemFailedError
from local.resources import AwsClients, create_resources
from local.servers import start_ministack
from local.settings import LocalSettings, function_environment
from model_bake.corpus import standard_library_passages

OUT = ROOT / "benchmarks" / "results" / "deployed.json"
HANDLER = "handlers.queue.handler"
MEMORY_SIZES = (256, 512, 1024, 1769, 3538)
TOKENS = 100
# As in template.yaml.
_TIMEOUT_SECONDS = 120.0
_WAIT_SECONDS = 180.0
# These are the image's own, or would bring a cache.
_NOT_SET = ("EMBAKERY_ARTIFACT", "EMBAKERY_THREADS", "EMBAKERY_REDIS_URL", "EMBAKERY_CACHE_SECRET")


@dataclass(frozen=True, slots=True)
class Prices:
    """Lambda's list prices in dollars, without free tier and discounts. gb_second: by the machine's architecture."""

    as_of: str
    region: str
    gb_second: Mapping[str, float]
    million_requests: float


PRICES = Prices(
    as_of="2026-11",
    region="us-east-1",
    gb_second={"x86_64": 0.0000166667, "aarch64": 0.0000133334},
    million_requests=0.20,
)


def dollars_per_million(documents: int, seconds: float, memory_mb: int, *, architecture: str) -> float:
    """Return what a million documents cost when one invocation takes so many of them and so long."""
    billed = math.ceil(seconds * 1000) / 1000
    gigabyte_seconds = billed * memory_mb / 1024
    invocation = gigabyte_seconds * PRICES.gb_second[architecture] + PRICES.million_requests / 1e6
    return 1e6 / documents * invocation


@dataclass(frozen=True, slots=True)
class World:
    """The emulated AWS: the function's variables, and the queue that its batches come from."""

    variables: Mapping[str, str]
    queue_arn: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the table."""
    # So that this signal, too, unwinds the stack and removes the container.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    given = parse(arguments)
    stream = " ".join(passage.text for passage in standard_library_passages())
    texts = cut_texts(ARTIFACT / "tokenizer.json", stream, tokens=TOKENS)
    busy = busy_cores()
    with emulated_aws() as world:
        rows = [measure(given.image, Size.of(memory), world, texts, given.batches) for memory in given.memory]
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "image": given.image,
        "image_id": docker("image", "inspect", "--format", "{{.Id}}", given.image),
        "tokens_per_document": TOKENS,
        "documents_per_batch": MESSAGES * DOCUMENTS,
        "batches": given.batches,
        "prices": asdict(PRICES),
        "architecture": os.uname().machine,
        "busy_cores_before": busy,
        "sizes": rows,
        **circumstances("ministack"),
        "docker": docker("version", "--format", "{{.Server.Version}}"),
        "kernel": os.uname().release,
    }
    given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(markdown(results))
    print(f"written to {given.out}", file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.deployed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", default="embakery:latest")
    parser.add_argument("--memory", type=int, nargs="+", default=MEMORY_SIZES, metavar="MB")
    parser.add_argument("--batches", type=int, default=3, help="timed at each size")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def emulated_aws() -> Iterator[World]:
    """Start the emulator, with what the function needs in it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embakery-deployed-")))
        server = start_ministack(folder)
        stack.callback(server.stop)
        url = f"http://{server.address}"
        clients = AwsClients.connect(url)
        stack.callback(clients.close)
        resources = create_resources(clients, function_timeout_seconds=_TIMEOUT_SECONDS)
        variables = function_environment(LocalSettings(ARTIFACT), aws_url=url, redis_url="", resources=resources)
        kept = {name: value for name, value in variables.items() if name not in _NOT_SET}
        yield World(kept, resources.documents.arn)


def measure(image: str, size: Size, world: World, texts: Texts, batches: int) -> dict[str, Any]:
    """Return one memory size's row."""
    print(f"{size.memory_mb} MB, {size.cpus} CPUs", file=sys.stderr)
    row: dict[str, Any] = {"memory_mb": size.memory_mb, "cpus": size.cpus, "peaks": {}, "throughput": None}
    for name, make in BATCHES.items():
        with _container(image, size, world) as (container, cold):
            row["peaks"][name] = _first_batch(container, make(texts, world.queue_arn)) | {"page_cache_dropped": cold}
            if name == "usual" and row["peaks"][name]["fits"]:
                row["throughput"] = _throughput(container, lambda: usual_batch(texts, world.queue_arn), batches)
    return row


@contextlib.contextmanager
def _container(image: str, size: Size, world: World) -> Iterator[tuple[Container, bool]]:
    """Start a container; also say whether the page cache was empty then."""
    with (
        RuntimeApi(timeout_seconds=_TIMEOUT_SECONDS) as api,
        Container(image, HANDLER, size=size, api=api, environment=world.variables) as container,
    ):
        cold = drop_page_cache()
        container.start()
        yield container, cold


def _first_batch(container: Container, event: Event) -> dict[str, Any]:
    """Return whether the container lives through its first batch, and what that took."""
    try:
        answer = container.invoke(event, timeout_seconds=_WAIT_SECONDS)
    except SystemFailedError as error:
        return {"fits": False, "failed": str(error)}
    return {
        "fits": True,
        "seconds": round(answer.seconds, 3),
        # Out of time, if any: they come again.
        "messages_given_back": len(answer.json()["batchItemFailures"]),
        **container.memory().as_json(),
    }


def _throughput(container: Container, make: Callable[[], Event], batches: int) -> dict[str, Any]:
    """Return the warm function's documents a second, and their price; or what went wrong."""
    seconds = []
    for _ in range(batches):
        try:
            answer = container.invoke(make(), timeout_seconds=_WAIT_SECONDS)
        except SystemFailedError as error:
            return {"failed": str(error)}
        failed = answer.json()["batchItemFailures"]
        if failed:
            return {"failed": f"{len(failed)} messages of a warm batch"}
        seconds.append(answer.seconds)
    documents = MESSAGES * DOCUMENTS
    typical = median(seconds)
    dollars = dollars_per_million(documents, typical, container.size.memory_mb, architecture=os.uname().machine)
    return {
        "seconds": [round(each, 3) for each in seconds],
        "documents_per_s": round(documents / typical, 1),
        "dollars_per_million_documents": round(dollars, 4),
    }


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table."""
    names = list(BATCHES)
    peaks = " | ".join(f"{name}: s, peak MB process / cgroup" for name in names)
    lines = [f"| MB | vCPU | {peaks} | documents/s | $ per million |", "|" + " --- |" * (len(names) + 4)]
    for row in results["sizes"]:
        cells = [
            row["memory_mb"],
            row["cpus"],
            *(_peak(row["peaks"][name]) for name in names),
            *_speed(row["throughput"]),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _peak(found: Mapping[str, Any]) -> str:
    if not found["fits"]:
        return str(found["failed"]).splitlines()[0]
    back = found["messages_given_back"]
    rest = f", {back} given back" if back else ""
    return f"{found['seconds']:.1f}, {found['process_peak_mb']:.0f} / {found['cgroup_peak_mb']:.0f}{rest}"


def _speed(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None or "failed" in found:
        return "" if found is None else found["failed"], ""
    return f"{found['documents_per_s']:.0f}", f"{found['dollars_per_million_documents']:.3f}"


if __name__ == "__main__":
    main()
