"""The environment of everything that runs here: this machine's, less what could lead out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

REGION = "us-east-1"
ACCOUNT_ID = "000000000000"
ACCESS_KEY_ID = "test"
SECRET_ACCESS_KEY = "test"  # noqa: S105 - the emulator takes any
SOURCE_ROOT = Path(__file__).resolve().parent.parent

# A developer's profile or session would be tried before the test credentials; a service's own endpoint variable wins
# over AWS_ENDPOINT_URL and would send local data to a real account.
_LEADING_OUT = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_ROLE_ARN")
_ENDPOINT_PREFIX = "AWS_ENDPOINT_URL"


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy that finds our packages, reaches loopback without a proxy, and knows no real account."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _LEADING_OUT and not name.startswith(_ENDPOINT_PREFIX)
    }
    no_proxy = ",".join(part for part in (kept.get("NO_PROXY") or kept.get("no_proxy"), "127.0.0.1,localhost") if part)
    return kept | {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PYTHONPATH": os.pathsep.join(part for part in (str(SOURCE_ROOT), kept.get("PYTHONPATH")) if part),
        # Logs reach us line by line, not when a buffer is full.
        "PYTHONUNBUFFERED": "1",
    }


def aws_environment(endpoint_url: str) -> dict[str, str]:
    """Return what points boto3 at the emulator."""
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    }
