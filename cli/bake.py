"""`embakery bake` and `embakery inspect`: making an artifact, and reading one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.commands import DEFAULT_ARTIFACT
from cli.progress import Advance, progress

if TYPE_CHECKING:
    from embakery.artifact import Artifact
    from model_bake.build import Route
    from model_bake.quantize import Precision


class Terminal:
    """Shows a bake's steps: a line each, a bar for the long ones."""

    def say(self, step: str, text: str) -> None:
        """Print a line."""
        click.echo(f"{step:10}{text}")

    def progress(self, step: str, total: int) -> AbstractContextManager[Advance]:
        """Show a bar."""
        return progress(step, total)


def _list_supported(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from model_bake.supported import describe

    for heading, items in describe().items():
        click.echo(f"{click.style(heading, bold=True)}\n  " + "\n  ".join(items))
    context.exit()


def _dimensions(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (value or "").split(",") if part.strip())
    except ValueError:
        raise click.BadParameter("whole numbers with commas between them, such as 256,128") from None


@click.command()
@click.argument("model")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must not exist or be empty."
)
@click.option("--revision", help="Commit, tag or branch of a hub model; pinned and recorded.")
@click.option("--reranker", help="A cross-encoder to bake beside the encoder.")
@click.option("--reranker-revision", help="As --revision, for the reranker.")
@click.option(
    "--precision",
    type=click.Choice(["int8", "int8-weights", "fp32"]),
    default="int8",
    show_default=True,
    help="int8-weights: 8-bit weights, fp32 arithmetic.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=3), help="Another limit than the model's own, up to its positions."
)
@click.option("--dimensions", callback=_dimensions, help="Lengths that vectors may be cut to (Matryoshka), as 256,128.")
@click.option("--query-prompt", help="Text put before queries, where the model's files do not say.")
@click.option("--document-prompt", help="Text put before documents, where the model's files do not say.")
@click.option(
    "--route",
    type=click.Choice(["auto", "torch"]),
    default="auto",
    show_default=True,
    help="torch: export through torch and optimum even where the model's files are enough.",
)
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder with stsb/ and scifact/, to certify on as well.",
)
@click.option("--min-cosine", type=float, default=0.99, show_default=True, help="Gate: the lowest cosine.")
@click.option("--min-mean-cosine", type=float, default=0.995, show_default=True, help="Gate: the mean cosine.")
@click.option(
    "--min-overlap", type=float, default=0.9, show_default=True, help="Gate: nearest neighbours kept, of ten."
)
@click.option("--min-rank-agreement", type=float, default=0.98, show_default=True, help="Gate of a cross-encoder.")
@click.option(
    "--list-supported",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_supported,
    help="Say what can be baked, and stop.",
)
def bake(
    model: str,
    out: Path,
    revision: str | None,
    reranker: str | None,
    reranker_revision: str | None,
    precision: Precision,
    max_tokens: int | None,
    dimensions: tuple[int, ...],
    query_prompt: str | None,
    document_prompt: str | None,
    route: Route,
    evaluation: Path | None,
    min_cosine: float,
    min_mean_cosine: float,
    min_overlap: float,
    min_rank_agreement: float,
) -> None:
    r"""Quantize and certify MODEL.

    MODEL is all-MiniLM-L6-v2 (the default model, which needs no hub), a local folder, or a hub id: a
    SentenceTransformer or a cross-encoder.

    \b
    embakery bake all-MiniLM-L6-v2 --out build/all-MiniLM-L6-v2
    embakery bake intfloat/e5-small-v2 --out build/e5 --reranker cross-encoder/ms-marco-MiniLM-L6-v2
    """
    from cli.quiet import quiet_libraries

    quiet_libraries()
    from model_bake.bake import Order
    from model_bake.bake import bake as run_bake
    from model_bake.gates import Gates
    from model_bake.spec import Wishes

    prompts = {"query": query_prompt, "document": document_prompt}
    wishes = Wishes(max_tokens, dimensions, {kind: text for kind, text in prompts.items() if text is not None})
    order = Order(
        model=model,
        revision=revision,
        reranker=reranker,
        reranker_revision=reranker_revision,
        precision=precision,
        route=route,
        wishes=wishes,
        gates=Gates(min_cosine, min_mean_cosine, min_overlap, min_rank_agreement),
        evaluation=evaluation,
    )
    baked = run_bake(order, out, report=Terminal())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    space = baked.artifact.manifest.space_id
    click.echo(f"{'baked':10}{out}: {size:.0f} MB, space {space}, in {baked.seconds:.0f} s")
    for line in _fidelity(baked.artifact):
        click.echo(line)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_ARTIFACT)
@click.option("--json", "as_json", is_flag=True, help="Manifests and certificates as one JSON object.")
def inspect(artifact: Path, as_json: bool) -> None:
    """Check an artifact's every file and say what is in it."""
    from embakery.artifact import Artifact

    checked = Artifact.load(artifact)
    if as_json:
        click.echo(json.dumps(_as_json(checked)))
        return
    for line in _description(checked):
        click.echo(line)
    if checked.reranker is not None:
        click.echo("\nreranker/")
        for line in _description(checked.reranker):
            click.echo(f"  {line}")


def _as_json(artifact: Artifact) -> dict[str, Any]:
    from dataclasses import asdict

    beside = None if artifact.reranker is None else _as_json(artifact.reranker)
    return {"manifest": asdict(artifact.manifest), "certificate": artifact.certificate(), "reranker": beside}


def _description(artifact: Artifact) -> Iterator[str]:
    manifest = artifact.manifest
    facts = {
        "model": manifest.model_id,
        "revision": manifest.revision,
        "licence": manifest.licence,
        "kind": f"{manifest.kind}, {manifest.architecture}, {artifact.certificate()['precision']}",
        "space": manifest.space_id,
        "labels" if manifest.kind == "cross-encoder" else "dimensions": ", ".join(map(str, manifest.dimensions)),
        "max tokens": manifest.max_tokens,
        "pooling": f"{manifest.pooling}, {'normalized' if manifest.normalize else 'not normalized'}",
        **{f"{kind} prompt": repr(prompt) for kind, prompt in manifest.prompts.items()},
        "quantization": manifest.engine.quantization,
        "contract": manifest.engine.contract,
    }
    for name, value in facts.items():
        if value is not None:
            yield f"{name:16}{value}"
    yield from _fidelity(artifact)
    for name, size in ((name, file.size) for name, file in manifest.files.items()):
        yield f"{size:>14,} bytes  {name}"


def _fidelity(artifact: Artifact) -> Iterator[str]:
    """What the certificate says, in a line or two."""
    figures = artifact.certificate()
    if "cosine" in figures:
        cosine = figures["cosine"]
        yield (
            f"{'cosine':16}mean {cosine['mean']:.5f}, p1 {cosine['p1']:.5f}, lowest {cosine['min']:.5f} "
            f"to fp32, {figures['inputs']} texts"
        )
        yield f"{'neighbours':16}{figures['neighbour_overlap_at_10']:.1%} of the ten nearest are the same"
        for name, value in figures.get("evaluation", {}).items():
            yield f"{name:16}{value['baked']:.4f}, fp32 {value['original']:.4f}"
    else:
        error, agreement = figures["score_error"], figures["rank_agreement"]
        yield f"{'scores':16}error mean {error['mean']:.2g}, largest {error['max']:.2g}, {figures['inputs']} pairs"
        yield f"{'rankings':16}agreement mean {agreement['mean']:.4f}, lowest {agreement['min']:.4f} (Spearman)"
    yield f"{'invariance':16}{figures['batch_invariant']} of {figures['inputs']} have equal bits alone and in a batch"
