"""`embakery eval`: an artifact on your own data, and against another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.commands import RERANK_METHOD
from cli.progress import progress

if TYPE_CHECKING:
    from evaluation.report import Comparison

_file = click.Path(path_type=Path, exists=True, dir_okay=False)
_folder = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("eval")
@click.argument("artifact", type=_folder)
@click.option("--docs", type=_file, required=True, help='JSON lines of {"id", "text"}, or CSV/TSV with a header.')
@click.option("--queries", type=_file, required=True, help="The same for queries.")
@click.option("--qrels", type=_file, required=True, help="TSV of query_id, doc_id, relevance; or TREC's four columns.")
@click.option("--rerank-top", type=click.IntRange(min=0), default=30, show_default=True, help="0: no rerank.")
@click.option("--method", type=RERANK_METHOD, help="How to rerank.")
@click.option("--against", type=_folder, help="Another artifact to compare with, query by query.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--page", "page_file", type=click.Path(path_type=Path), help="Write a report here (HTML).")
def evaluate(
    artifact: Path,
    docs: Path,
    queries: Path,
    qrels: Path,
    rerank_top: int,
    method: str | None,
    against: Path | None,
    json_file: Path | None,
    page_file: Path | None,
) -> None:
    r"""Search and rerank your own data with ARTIFACT, and say how well.

    \b
    embakery eval build/all-MiniLM-L6-v2 --docs docs.jsonl --queries queries.jsonl --qrels qrels.tsv --page report.html
    """
    from embakery import Embedder
    from evaluation.collection import read_collection
    from evaluation.report import Evaluation, compare, evaluation_page
    from evaluation.report import evaluate as run

    collection = read_collection(docs, queries, qrels)

    def judge(folder: Path) -> Evaluation:
        steps = len(collection.documents) + len(collection.queries) * (2 if rerank_top else 1)
        with progress(folder.name[:10], steps) as advance:
            return run(Embedder.load(folder), collection, top=rerank_top or None, method=method, advance=advance)

    first = judge(artifact)
    figures = first.to_json()
    for name in ("dense", "reranked"):
        if figures[name] is not None:
            click.echo(f"{name:12}" + "  ".join(f"{metric} {value:.4f}" for metric, value in figures[name].items()))
    click.echo(f"{'threshold':12}cosine {figures['threshold']['cosine']:.3f}, F1 {figures['threshold']['f1']:.3f}")
    comparison = None
    if against is not None:
        second = judge(against)
        comparison = compare(second, first)
        figures["against"] = {**second.to_json(), "comparison": comparison.to_json()}
        click.echo(f"\nagainst {comparison.before.model_id}, space {comparison.before.space_id}")
        for line in _comparison(comparison):
            click.echo(line)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if page_file is not None:
        page_file.write_text(evaluation_page(first, comparison), encoding="utf-8")


def _comparison(comparison: Comparison) -> Iterator[str]:
    yield f"{'overlap':12}{comparison.overlap:.1%} of each query's ten nearest are the same"
    for stage, differences in (("dense", comparison.dense), ("reranked", comparison.reranked or {})):
        for name, each in differences.items():
            yield f"{stage:12}{name:12}{each.mean:+.4f} ({each.low:+.4f} to {each.high:+.4f}), p {each.p:.3f}"
