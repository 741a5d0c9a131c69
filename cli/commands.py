"""The commands."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

DEFAULT_ARTIFACT = Path("build/all-MiniLM-L6-v2")
# The library's own names, without the .25 s that importing it takes.
RERANK_METHOD = click.Choice(["late-interaction", "cross-encoder"])

_artifact_option = click.option(
    "--artifact",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_ARTIFACT,
    show_default=True,
    help="Folder of a baked model.",
)


@click.command()
@click.argument("texts", nargs=-1)
@_artifact_option
@click.option("--input-type", type=click.Choice(["document", "query"]), default="document", show_default=True)
@click.option("--dimensions", type=int, help="Cut vectors to this length (Matryoshka models).")
def embed(texts: tuple[str, ...], artifact: Path, input_type: str, dimensions: int | None) -> None:
    r"""Embed TEXTS, or the lines of standard input; print one JSON array a line.

    \b
    embakery embed "hello world"
    cut -f2 notes.tsv | embakery embed --input-type query
    """
    from embakery import Embedder

    wanted = list(texts) or [line.rstrip("\n") for line in sys.stdin]
    for vector in Embedder.load(artifact).embed(wanted, input_type=input_type, dimensions=dimensions):
        click.echo(json.dumps(vector.tolist()))


@click.command()
@click.argument("query")
@click.argument("documents", nargs=-1)
@_artifact_option
@click.option("--top-n", type=click.IntRange(min=1), help="How many to print.")
@click.option(
    "--method",
    type=RERANK_METHOD,
    help="Default: the cross-encoder if one was baked, else late interaction.",
)
def rerank(query: str, documents: tuple[str, ...], artifact: Path, top_n: int | None, method: str | None) -> None:
    """Rank DOCUMENTS, or the lines of standard input, for QUERY; print score and text, best first."""
    from embakery import Embedder

    candidates = list(documents) or [line.rstrip("\n") for line in sys.stdin]
    for line in Embedder.load(artifact).rerank(query, candidates, top_n=top_n, method=method):
        click.echo(f"{line.score:.4f}\t{candidates[line.index]}")


@click.command()
@_artifact_option
@click.option("--http-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@click.option("--engine", type=click.Choice(["auto", "native", "onnx"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=lambda: os.cpu_count() or 1, help="Default: all cores.")
@click.option("--try", "show_examples", is_flag=True, help="Print curl lines to try.")
@click.option("--verbose", is_flag=True, help="Show the functions' logs.")
def local(artifact: Path, http_port: int, engine: str, threads: int, show_examples: bool, verbose: bool) -> None:
    """Run the whole system on this machine until Ctrl-C: queues, bucket, table, Redis, functions, HTTP."""
    from embakery.artifact import Artifact
    from local.settings import LocalSettings
    from local.system import LocalSystem

    Artifact.load(artifact)
    settings = LocalSettings(artifact, http_port=http_port, engine=engine, threads=threads, verbose=verbose)
    with LocalSystem(settings, report=click.echo) as system:
        if show_examples:
            click.echo(_examples(system.endpoints))
        system.serve_until_interrupted()


@click.command()
@click.option("--documents", type=click.IntRange(min=10), default=1500, show_default=True, help="How many to embed.")
def demo(documents: int) -> None:
    """Bake, start everything here, embed real documents through the queue, query and rerank them."""
    from cli.demo import run_demo

    run_demo(documents)


def _examples(endpoints: dict[str, str]) -> str:
    http, aws = endpoints["http"], endpoints["aws"]
    message = '{"v": 1, "documents": [{"id": "doc-1", "text": "hello queue"}]}'
    return f"""
Try:
  curl {http}/v1/embeddings -d '{{"input": ["hello world"]}}'
  curl {http}/v1/rerank -d '{{"query": "a greeting", "documents": ["hello world", "goodbye"]}}'
  curl {http}/v1/models
  curl {http}/metrics
  AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 AWS_ENDPOINT_URL={aws} \\
    aws sqs send-message --queue-url {endpoints["queue_url"]} --message-body '{message}'
"""
