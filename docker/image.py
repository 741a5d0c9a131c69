"""make image: builds the image of every function, labels it with its model, and writes its SBOM beside it.

python docker/image.py [--base-image IMAGE] [--artifact FOLDER | --model MODEL [--reranker MODEL] [--bake bake-any]]
                       [--extras onnx,postgres] [--platform linux/arm64] [--tag embakery:latest] [--out build/image]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class ImageError(Exception):
    """The image could not be built. The message says what to do."""


def main() -> int:
    """Build, and say what was built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-image", default="python:3.11-slim-bookworm")
    parser.add_argument("--artifact", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--reranker", default="")
    parser.add_argument("--bake", default="bake", choices=["bake", "bake-any"])
    parser.add_argument("--extras", default="")
    parser.add_argument("--platform")
    parser.add_argument("--tag", default="embakery:latest")
    parser.add_argument("--out", type=Path, default=Path("build/image"))
    arguments = parser.parse_args()
    try:
        build(arguments)
        facts = label(arguments.tag)
        (ROOT / arguments.out).mkdir(parents=True, exist_ok=True)
        sbom = ROOT / arguments.out / "sbom.cdx.json"
        sbom.write_bytes(content(arguments.tag, "/opt/sbom.cdx.json"))
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.tag}: {facts['embakery.model']}, space {facts['embakery.space-id']}")
    print(f"{size(arguments.tag) / 1e6:.0f} MB, {packages(sbom)} Python packages; {sbom.relative_to(ROOT)}")
    return 0


def build(arguments: argparse.Namespace) -> None:
    """Build the image. Raises ImageError."""
    wanted = {
        "BASE_IMAGE": arguments.base_image,
        "ARTIFACT": arguments.artifact,
        "MODEL": arguments.model,
        "RERANKER": arguments.reranker,
        "BAKE": arguments.bake,
        "EXTRAS": arguments.extras,
    }
    options = [part for name, value in wanted.items() if value for part in ("--build-arg", f"{name}={value}")]
    platform = ["--platform", arguments.platform] if arguments.platform else []
    docker("build", "--file", "docker/Dockerfile", "--tag", arguments.tag, *platform, *options, ".", shown=True)


def label(tag: str) -> dict[str, str]:
    """Add labels that only the finished artifact can tell; they change no layer. Returns them."""
    manifest: dict[str, Any] = json.loads(content(tag, "/opt/artifact/manifest.json"))
    labels = {
        "org.opencontainers.image.title": "embakery",
        "org.opencontainers.image.description": "A serverless embedding worker.",
        "org.opencontainers.image.version": version("embakery"),
        "org.opencontainers.image.licenses": "Apache-2.0",
        "embakery.model": manifest["model_id"],
        "embakery.model.revision": manifest["revision"] or "",
        "embakery.model.licence": manifest["licence"] or "",
        "embakery.space-id": manifest["space_id"],
        "embakery.artifact-digest": manifest["digest"],
    }
    options = [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]
    docker("build", "--tag", tag, *options, "-", given=f"FROM {tag}\n".encode())
    return labels


def content(tag: str, path: str) -> bytes:
    """Return a file of the image."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", "cat", tag, path)


def size(tag: str) -> int:
    """Return the image's size in bytes, not compressed."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", tag))


def packages(sbom: Path) -> int:
    """Return the number of Python packages."""
    components = json.loads(sbom.read_bytes())["components"]
    return sum(str(component.get("purl", "")).startswith("pkg:pypi/") for component in components)


def docker(*arguments: str, given: bytes | None = None, shown: bool = False) -> bytes:
    """Run a command of the engine's. Raises ImageError with the end of what it said."""
    done = subprocess.run(  # noqa: S603 - what this program itself has put together
        ["docker", *arguments],  # noqa: S607 - whichever engine is on PATH
        cwd=ROOT,
        input=given,
        capture_output=not shown,
        check=False,
    )
    if done.returncode:
        said = b"" if shown else b"\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise ImageError(f"docker {arguments[0]} failed\n{said.decode(errors='replace')}")
    return done.stdout or b""


if __name__ == "__main__":
    sys.exit(main())
