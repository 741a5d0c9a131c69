"""The built image, and functions in containers of it: without network, without root, without files to write to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lambda_emulator import Answer, FunctionLog

from local.environment import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

IMAGE = os.environ.get("EMBAKERY_IMAGE", "embakery:latest")
# Nobody's in the image, and not the image's own choice either: Lambda takes one of its own.
_USER = "993:990"
_EMULATOR = "/opt/aws-lambda-rie"
_START_SECONDS = 60
_SANDBOX = ("--network", "none", "--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,size=512m", "--cap-drop", "ALL")
_ENVIRONMENT = {
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    "AWS_LAMBDA_FUNCTION_NAME": "embakery",
    "AWS_LAMBDA_FUNCTION_TIMEOUT": "60",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
    # What the image sets reaches a process of its own; this reaches what the emulator starts.
    "PYTHONUNBUFFERED": "1",
}
# Runs inside, where no client of HTTP but Python's is.
_INVOKE = """
import sys, urllib.error, urllib.request
url = "http://127.0.0.1:8080/2015-03-31/functions/function/invocations"
try:
    answer = urllib.request.urlopen(url, sys.stdin.buffer.read())
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
sys.stdout.buffer.write(answer.read())
"""


def need_image() -> None:
    """Skip without a container engine or without the image; in CI fail: .ci/run brings the one and builds the other."""
    missing = _missing()
    if missing is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


def _missing() -> str | None:
    if shutil.which("docker") is None:
        return "docker is not on PATH"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "the container engine does not answer"
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        return f"there is no image {IMAGE}: `make image` builds it"
    return None


def docker(*arguments: str, given: bytes = b"") -> str:
    """Run a command of the engine's and return what it printed to stdout; fail with what it printed to stderr."""
    done = subprocess.run(["docker", *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()


def inspect() -> dict[str, Any]:
    """Return what the engine knows of the image."""
    (facts,) = json.loads(docker("image", "inspect", IMAGE))
    assert isinstance(facts, dict)
    return facts


def python_inside(script: str, *options: str) -> str:
    """Run a script in the image's Python, as Lambda would run the function; return what it printed."""
    command = ("--entrypoint", "python3", IMAGE, *options, "-c", script)
    return docker("run", "--rm", *_SANDBOX, "--user", _USER, *command)


@dataclass(frozen=True, slots=True)
class InContainer(FunctionLog):
    """A function in a container, under the runtime emulator that stands beside it."""

    container: str

    def invoke(self, event: object) -> Answer:
        """Invoke it with an event and wait for the answer."""
        command = ("exec", "--interactive", self.container, "python3", "-c", _INVOKE)
        status, _, content = docker(*command, given=json.dumps(event).encode()).partition("\n")
        return Answer(int(status), json.loads(content))

    def run(self, *command: str) -> str:
        """Run something beside it."""
        return docker("exec", self.container, *command)

    @property
    def log(self) -> str:
        """Everything that the function and the emulator have written."""
        done = subprocess.run(["docker", "logs", self.container], capture_output=True, check=True)
        return (done.stdout + done.stderr).decode()


@contextlib.contextmanager
def in_container(
    emulator: Path, handler: str, *, env: Mapping[str, str] | None = None, mounts: Sequence[str] = ()
) -> Iterator[InContainer]:
    """Run a function of the image until the end of the block. mounts: folders over those of the image, `from:to:ro`."""
    variables = _ENVIRONMENT | dict(env or {})
    options = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
    options += [part for mount in (f"{emulator}:{_EMULATOR}:ro", *mounts) for part in ("--volume", mount)]
    start = ("python3", "-S", "-m", "handlers", handler)
    container = docker(
        *("run", "--detach", *_SANDBOX, "--user", _USER, *options, "--entrypoint", _EMULATOR, IMAGE, *start)
    ).strip()
    try:
        function = InContainer(container)
        deadline = time.monotonic() + _START_SECONDS
        while "exec 'python3'" not in function.log:
            assert time.monotonic() < deadline, function.log
            time.sleep(0.05)
        yield function
    finally:
        docker("rm", "--force", container)
