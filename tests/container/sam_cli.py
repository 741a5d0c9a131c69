"""The SAM CLI as the tests call it: every command and what came of it goes to the transcript."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.environment import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from local.processes import LOOPBACK, ServerSpec, start_server

ROOT = Path(__file__).parents[2]
SAM = ROOT / ".venv-sam" / "bin" / "sam"
BUILD = ROOT / "build" / "sam"
_ENVIRONMENT = {
    "SAM_CLI_TELEMETRY": "0",
    "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
}
_SERVER_SECONDS = 120


class SamFailedError(Exception):
    """A command did not end as it should have."""


def sam(*arguments: str, **variables: str) -> str:
    """Run a command and return what it printed to stdout. Raises SamFailedError."""
    began = time.monotonic()
    environment = {**os.environ, **_ENVIRONMENT, **variables}
    done = subprocess.run([SAM, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    tell(f"$ sam {' '.join(_shown(argument) for argument in arguments)}   exit {done.returncode}, {_seconds(began)}")
    if done.returncode:
        raise SamFailedError(f"sam {arguments[0]} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class SamLocal:
    """The `sam local` commands on the built template. variables: see `write_variables`. aws_url: the emulator's."""

    variables: Path
    aws_url: str

    def invoke(self, function: str, event: Path) -> Any:
        """Run `sam local invoke`: a container of its own, cold. Raises SamFailedError."""
        out = sam("local", "invoke", function, "--event", str(event), *self._options(), **self._environment())
        return json.loads(out.strip().splitlines()[-1])

    @contextlib.contextmanager
    def server(self, command: str, folder: Path) -> Iterator[str]:
        """Run `sam local start-api` or `start-lambda` until the end of the block; yield its URL."""
        options = ["--warm-containers", "LAZY", *self._options()]
        spec = ServerSpec(
            name=command,
            description=f"sam local {command}",
            command=lambda port: [str(SAM), "local", command, "--host", LOOPBACK, "--port", str(port), *options],
            environment=lambda _port: {**os.environ, **_ENVIRONMENT, **self._environment()},
            answers=_answers,
        )
        began = time.monotonic()
        running = start_server(spec, folder=folder, timeout_seconds=_SERVER_SECONDS)
        tell(f"$ sam local {command} --warm-containers LAZY ...   answers after {_seconds(began)}")
        try:
            yield f"http://{running.address}"
        finally:
            running.stop(timeout_seconds=_SERVER_SECONDS)

    def _options(self) -> list[str]:
        # Images are built here: no look for newer ones.
        template = str(BUILD / "template.yaml")
        return ["--template", template, "--env-vars", str(self.variables), "--skip-pull-image"]

    def _environment(self) -> dict[str, str]:
        # It asks who it is before every command, and waits for an answer.
        return {"AWS_ENDPOINT_URL_STS": self.aws_url}


def write_variables(template: Path, path: Path, variables: Mapping[str, str]) -> None:
    """Write the file for `--env-vars`. SAM passes on what the template names: this copy names where AWS is, too."""
    text = template.read_text(encoding="utf-8")
    if "AWS_ENDPOINT_URL" not in text:
        text, found = re.subn(
            r"^( *)EMBAKERY_ARTIFACT: .*$", r"\g<0>\n\1AWS_ENDPOINT_URL: ''", text, flags=re.MULTILINE
        )
        if not found:
            raise SamFailedError(f"{template.name}: no EMBAKERY_ARTIFACT to stand beside")
        template.write_text(text, encoding="utf-8")
    path.write_text(json.dumps({"Parameters": dict(variables)}, indent=1), encoding="utf-8")


def tell(line: str) -> None:
    """Add a line to the transcript."""
    print(line, flush=True)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://{LOOPBACK}:{port}/", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _shown(argument: str) -> str:
    path = Path(argument)
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else argument


def _seconds(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
