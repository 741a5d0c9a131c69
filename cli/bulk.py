"""`embakery bulk`: work on whole corpora, outside of the function."""

from __future__ import annotations

import json

import click


@click.group()
def bulk() -> None:
    """Work on whole corpora: tables of all results."""


@bulk.command()
@click.argument("log", metavar="S3-URL")
@click.option("--out", required=True, metavar="S3-URL", help="Where the tables go, in the same bucket.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def compact(log: str, out: str, as_json: bool) -> None:
    """Turn the results that functions wrote to S3 into Parquet: the newest row of each id, once.

    The log itself stays. The same log a second time does nothing.

    \b
    embakery bulk compact s3://bucket/results/ --out s3://bucket/tables/
    """  # noqa: D301 - click wants the backspace itself
    import boto3

    from storage.compaction import compact as compact_log

    bucket, prefix = _bucket_and_prefix("S3-URL", log)
    out_bucket, out_prefix = _bucket_and_prefix("--out", out)
    if out_bucket != bucket:
        raise click.UsageError("--out must be in the log's own bucket.")
    if out_prefix.startswith(prefix):
        raise click.UsageError("--out must not lie within the log.")
    made = compact_log(boto3.client("s3"), bucket, prefix, out_prefix)
    if as_json:
        parts = [] if made is None else [{"key": part.key, "rows": part.rows} for part in made.parts]
        facts = {"new": made is not None and made.is_new, "rows": 0 if made is None else made.rows, "parts": parts}
        click.echo(json.dumps(facts))
    elif made is None:
        click.echo(f"nothing was written under {log} yet")
    else:
        already = "" if made.is_new else ", made before"
        click.echo(f"{made.rows} rows in {len(made.parts)} files{already}: s3://{bucket}/{made.manifest}")


def _bucket_and_prefix(name: str, url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise click.UsageError(f"{name} must be s3://bucket/prefix/.")
    return bucket, f"{prefix.rstrip('/')}/" if prefix else ""
