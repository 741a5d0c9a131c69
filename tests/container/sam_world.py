"""What leads the functions' containers to the emulated AWS and Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import boto3
from lambda_world import LambdaWorld
from sam_relay import reachable

from local.environment import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from local.processes import LOOPBACK


@contextlib.contextmanager
def container_variables(world: LambdaWorld) -> Iterator[dict[str, str]]:
    """Make the servers reachable from containers; yield the variables of a function that runs in one."""
    ports = [urlsplit(world.env[name]).port or 0 for name in ("AWS_ENDPOINT_URL", "EMBAKERY_REDIS_URL")]
    with reachable(ports) as host:
        yield {name: value.replace(LOOPBACK, host) for name, value in world.env.items()} | {
            "EMBAKERY_ARTIFACT": "/opt/artifact",
            # The template names secrets by ARN only.
            "EMBAKERY_CACHE_SECRET_ARN": _create_secret(world.aws_url, world.env["EMBAKERY_CACHE_SECRET"]),
            # The template knows the account; the emulator's bucket belongs to another.
            "EMBAKERY_SOURCE_OWNER": "",
        }


def _create_secret(url: str, secret: str) -> str:
    manager = boto3.client(
        "secretsmanager",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
    )
    return str(manager.create_secret(Name="embakery-cache", SecretString=secret)["ARN"])
