"""A function run as its image runs it: the image's entry point under Lambda's runtime emulator."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from local.environment import SOURCE_ROOT, base_environment
from local.invocations import reserved_environment
from local.processes import LOOPBACK, ServerProcess, ServerSpec, free_port, start_server

_EMULATORS = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_PATIENCE_SECONDS = 60
_PATH = "2015-03-31/functions/function/invocations"


def emulator() -> Path:
    """Return the emulator that aws-sam-cli carries for this machine, or skip; in CI fail: `make check` installs it."""
    folders = [*SOURCE_ROOT.glob(".venv-sam/lib/python3*/site-packages/samcli/local/rapid")]
    name = f"aws-lambda-rie-{_EMULATORS.get(platform.machine(), platform.machine())}"
    found = [path for folder in folders if (path := folder / name).is_file()]
    if found and sys.platform == "linux":
        return found[0]
    missing = (
        "aws-sam-cli is not in .venv-sam: `make check` installs it" if not found else "Lambda's runtime is for Linux"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the invoker gets: HTTP 200 with the handler's own answer, or an error of Lambda's kind."""

    status: int
    content: Any

    @property
    def error(self) -> str:
        """The error's type and message in one line; fails if the handler answered."""
        assert isinstance(self.content, dict), self
        return f"{self.content['errorType']}: {self.content['errorMessage']}"

    @property
    def failed(self) -> list[str]:
        """The messages that must come again."""
        assert self.content.keys() == {"batchItemFailures"}, self
        assert all(failure.keys() == {"itemIdentifier"} for failure in self.content["batchItemFailures"])
        return [failure["itemIdentifier"] for failure in self.content["batchItemFailures"]]

    @property
    def body(self) -> Any:
        """The body of an HTTP response."""
        return json.loads(self.content["body"])


class FunctionLog(Protocol):
    """What a function has logged, line by line."""

    @property
    def log(self) -> str:
        """Everything that the function and the emulator have written."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The function's own structured lines, without those of metrics."""
        parsed = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in parsed if "_aws" not in line]

    @property
    def troubles(self) -> list[dict[str, Any]]:
        """The lines above the level of information."""
        return [line for line in self.lines if line["level"] != "INFO"]

    def metric(self, name: str) -> float:
        """The sum of a metric."""
        parsed = [json.loads(line) for line in self.log.splitlines() if line.startswith('{"_aws"')]
        return sum(sum(line.get(name, [])) for line in parsed)

    def trouble(self) -> dict[str, Any]:
        """The one line above the level of information. Fails if there are more."""
        (line,) = self.troubles
        assert line["code"], line
        assert line["reason"], line
        assert "\n" not in line["reason"]
        return line

    @property
    def unstructured(self) -> list[str]:
        """The lines, shortened, that neither function nor emulator wrote: the runtime client's, and accidents."""
        known = ("{", "START ", "END ", "REPORT ")
        return [
            line[:60]
            for line in self.log.split("\n")
            if line and " (rapid) " not in line[:60] and not line.startswith(known)
        ]


class Emulated(FunctionLog):
    """A running function."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._whole_log: str | None = None

    def end(self) -> None:
        """End its processes, and keep their log."""
        self._server.stop()
        self._whole_log = self.log

    def invoke(self, event: object) -> Answer:
        """Invoke it with an event and wait for the answer. The first time, and after a crash, it starts."""
        return self.invoke_raw(json.dumps(event).encode())

    def invoke_raw(self, payload: bytes) -> Answer:
        """Invoke it with an event as it stands in a file."""
        url = f"http://{self._server.address}/{_PATH}"
        try:
            with urllib.request.urlopen(url, data=payload, timeout=_PATIENCE_SECONDS) as response:
                return Answer(response.status, json.loads(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.loads(error.read()))

    @property
    def log(self) -> str:
        """Everything that the function and the emulator have written."""
        return self._server.log_file.read_bytes().decode() if self._whole_log is None else self._whole_log


@contextlib.contextmanager
def emulated(handler: str, env: Mapping[str, str], *, seconds: int = 60, megabytes: int = 1769) -> Iterator[Emulated]:
    """Run `python -m handlers HANDLER` under the emulator until the end of the block.

    env: laid over this process's environment, and what Lambda sets over that. It starts with the first invocation, as
    in Lambda, where nothing can be seen of an environment before either.
    """
    program = str(emulator())
    command = [sys.executable, "-m", "handlers", handler]
    reserved = reserved_environment("embakery", handler, megabytes) | {"AWS_LAMBDA_FUNCTION_TIMEOUT": str(seconds)}
    spec = ServerSpec(
        name="function",
        description=handler,
        command=lambda port: [
            program,
            *("--runtime-interface-emulator-address", f"{LOOPBACK}:{port}"),
            *("--runtime-api-address", f"{LOOPBACK}:{free_port()}"),
            *command,
        ],
        # Packages come from PYTHONPATH alone, as in the image, and not from wherever pytest was started.
        environment=lambda _port: base_environment(os.environ) | {"PYTHONSAFEPATH": "1"} | dict(env) | reserved,
        answers=_listens,
    )
    with tempfile.TemporaryDirectory(prefix="embakery-function-") as folder:
        function = Emulated(start_server(spec, folder=Path(folder)))
        try:
            yield function
        finally:
            function.end()


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
