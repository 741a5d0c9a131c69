"""`embakery enqueue`: documents from files to the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_FORMATS = ("jsonl", "openai", "csv", "tsv", "parquet", "text")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--queue-url", envvar="EMBAKERY_QUEUE_URL", help="The documents queue.")
@click.option("--destination", default="default", show_default=True, help="A destination's name in the deployment.")
@click.option("--input-type", type=click.Choice(["document", "query"]), default="document", show_default=True)
@click.option("--job-id", help="Comes back with every result.")
@click.option("--format", "format_", type=click.Choice(_FORMATS), help="Of all files. Default: by extension.")
@click.option("--id-field", default="id", show_default=True)
@click.option("--text-field", default="text", show_default=True)
@click.option("--version-field", default="version", show_default=True, help="Need not be there.")
@click.option("--metadata/--no-metadata", default=True, help="Other columns become metadata, or not.")
@click.option(
    "--max-characters",
    type=click.IntRange(min=1),
    default=200_000,
    show_default=True,
    envvar="EMBAKERY_MAX_CHARACTERS",
    help="The deployment's limit on one text.",
)
@click.option("--documents-per-message", type=click.IntRange(1, 100), default=10, show_default=True)
@click.option("--groups", type=click.IntRange(1, 10_000), default=64, show_default=True, help="On a FIFO queue.")
@click.option("--group", help="On a FIFO queue: one group for all, in strict order.")
@click.option(
    "--claim-check",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="auto: only documents over 1 MiB go by S3.",
)
@click.option("--claim-check-bucket", envvar="EMBAKERY_SOURCE_BUCKET")
@click.option("--claim-check-prefix", envvar="EMBAKERY_SOURCE_PREFIX", default="sources/", show_default=True)
@click.option("--claim-check-owner", envvar="EMBAKERY_SOURCE_OWNER", help="The account that must own the bucket.")
@click.option(
    "--claim-check-documents", type=click.IntRange(min=1), default=1000, show_default=True, help="In a payload."
)
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), help="Where to write what was sent.")
@click.option("--no-journal", is_flag=True, help="Write nothing down; a run that ends half-way cannot go on.")
@click.option("--again", is_flag=True, help="Send everything, whatever the journal says.")
@click.option("--strict", is_flag=True, help="Check everything first; send nothing if anything is wrong.")
@click.option("--dry-run", is_flag=True, help="Check and count; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def enqueue(files: tuple[str, ...], **options: Any) -> None:
    """Send the documents of each FILE to the queue; - is standard input, a folder means its text files.

    Bad rows are named on standard error and left out; the exit code is then 2. A run that was stopped goes on where it
    was when the same command is given again.

    \b
    embakery enqueue documents.jsonl --queue-url "$QUEUE_URL"
    embakery enqueue articles.csv --id-field slug --text-field body
    embakery enqueue *.parquet notes/ --destination archive --job-id 2026-11
    """  # noqa: D301 - click wants the backspace itself
    from cli.enqueue_run import run

    run(_order(files, options))


def _order(files: tuple[str, ...], options: dict[str, Any]) -> Any:
    from cli.enqueue_run import ClaimChecks, Order
    from cli.inputs.reading import Inputs
    from cli.inputs.rows import Columns
    from cli.packing import Envelope, Groups
    from embakery.texts import TextLimits

    if options["queue_url"] is None and not options["dry_run"]:
        raise click.UsageError("Missing option '--queue-url' (or EMBAKERY_QUEUE_URL).")
    if options["no_journal"] and options["journal"] is not None:
        raise click.UsageError("--journal and --no-journal contradict each other.")
    fields = {name: options[f"{name}_field"] for name in ("id", "text", "version")}
    checks = {name: options[f"claim_check_{name}"] for name in ("bucket", "prefix", "owner", "documents")}
    return Order(
        inputs=Inputs(files, options["format_"], Columns(**fields, metadata=options["metadata"])),
        queue_url=options["queue_url"],
        envelope=Envelope(options["input_type"], options["destination"], options["job_id"]),
        documents=options["documents_per_message"],
        groups=Groups(options["groups"], options["group"]),
        claim_checks=ClaimChecks(options["claim_check"], **checks),
        limits=TextLimits(max_characters=options["max_characters"]),
        journal=options["journal"] or not options["no_journal"],
        again=options["again"],
        strict=options["strict"],
        dry_run=options["dry_run"],
        json=options["as_json"],
    )
