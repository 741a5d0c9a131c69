"""The command line: one group, one way to fail."""

from __future__ import annotations

import sys

import click

from cli.bake import bake, inspect
from cli.bulk import bulk
from cli.commands import demo, embed, local, rerank
from cli.dlq import dlq
from cli.enqueue import enqueue
from cli.evaluate import evaluate
from embakery import __version__
from embakery.errors import ArtifactError, ConfigurationError, EmbakeryError, InvalidRequestError

# Who must act, for scripts: 2 the caller, 3 the operator, 4 whoever baked or deployed, 1 anything else.
_EXIT_CODES: tuple[tuple[type[EmbakeryError], int], ...] = (
    (InvalidRequestError, 2),
    (ConfigurationError, 3),
    (ArtifactError, 4),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Bake a SentenceTransformer, feed it by queue or HTTP, get the same bits every time."""


for command in (bake, inspect, evaluate, embed, rerank, enqueue, dlq, bulk, local, demo):
    cli.add_command(command)


def main() -> int:
    """Run a command; print a failure on one line and exit by its kind."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EmbakeryError as error:
        click.echo(f"embakery: {error}", err=True)
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
    except _outside_errors() as error:
        click.echo(f"embakery: {error}", err=True)
        return 1
    except ModuleNotFoundError as error:
        click.echo(
            f"embakery: {error.name} is not installed: pip install -e '.[bake,local]' has all that is needed", err=True
        )
        return 3
    return 0


def _outside_errors() -> tuple[type[Exception], ...]:
    """What AWS and the local system raise, as far as they were imported: nothing is imported for it."""
    names = (("botocore.exceptions", ("BotoCoreError", "ClientError")), ("local.errors", ("LocalError",)))
    modules = ((sys.modules.get(module), kinds) for module, kinds in names)
    return tuple(getattr(module, kind) for module, kinds in modules if module is not None for kind in kinds)


if __name__ == "__main__":
    sys.exit(main())
