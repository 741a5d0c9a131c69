"""`embakery demo`: see cli/demo.py."""

from __future__ import annotations

import click


@click.command()
@click.option("--documents", type=click.IntRange(min=10), default=1500, show_default=True, help="How many to embed.")
def demo(documents: int) -> None:
    """Bake, start everything here, embed real documents through the queue, query and rerank them."""
    from cli.demo import run_demo

    run_demo(documents)
