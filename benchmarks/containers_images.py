"""The peers' images, built once and again when their files change, and what an image weighs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.containers import docker
from benchmarks.environments import ROOT
from benchmarks.models import prepare_model
from benchmarks.process import SystemFailedError

IMAGES = Path(__file__).parent / "images"
_REQUIREMENTS = Path(__file__).parent / "requirements"
_PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_DIGEST_LABEL = "embakery.benchmark.inputs"
_GZIP_LEVEL = 6
_GZIP_FORMAT = 31
_PIECE_BYTES = 1 << 20
# Run inside the image.
_COUNTS = """
import importlib.metadata, json, os
skipped = {"/proc", "/sys", "/dev", "/tmp"}
files = 0
for folder, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in skipped]
    files += len(names)
packages = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
print(json.dumps({"files": files, "packages": packages}))
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's image. requirements: a file of requirements/. model: a name of models.py. choices: what was chosen."""

    name: str
    title: str
    requirements: str
    model: str
    choices: str
    with_torch: bool

    @property
    def function(self) -> Path:
        """The file of its handler."""
        return IMAGES / f"{self.name}_function.py"

    @property
    def tag(self) -> str:
        """The image's name."""
        return f"embakery-peer:{self.name}"


PEERS = (
    Peer(
        "sentence_transformers",
        "sentence-transformers, torch",
        requirements="sentence-transformers",
        model="original",
        choices="torch's CPU build, fp32, the original weights",
        with_torch=True,
    ),
    Peer(
        "onnxruntime",
        "onnxruntime, tokenizers",
        requirements="onnxruntime",
        model="onnx-int8",
        choices="fused and dynamically quantized to int8, 23 MB instead of 90 (conversions/onnxruntime.py)",
        with_torch=False,
    ),
    Peer(
        "sentence_transformers_onnx",
        "sentence-transformers, onnx backend",
        requirements="sentence-transformers-onnx",
        model="onnx-int8",
        choices="torch's CPU build, optimum, the same int8 graph as onnxruntime's",
        with_torch=True,
    ),
)


def build_peer(peer: Peer, base_image: str) -> str:
    """Return the tag of a peer's image; build it if need be. Raises SystemFailedError."""
    with TemporaryDirectory(prefix="embakery-image-") as folder:
        context = Path(folder)
        _fill(context, peer)
        digest = _digest(context, base_image)
        if _label(peer.tag) == digest:
            return peer.tag
        print(f"set-up: image {peer.tag}", file=sys.stderr)
        arguments = [f"BASE_IMAGE={base_image}", f"REQUIREMENTS={peer.requirements}"]
        arguments += [
            f"{name}={os.environ[name]}" for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ
        ]
        options = [part for argument in arguments for part in ("--build-arg", argument)]
        options += ["--label", f"{_DIGEST_LABEL}={digest}", "--file", str(context / "Dockerfile")]
        docker("build", "--network", "host", "--tag", peer.tag, *options, str(context))
    return peer.tag


def cpu_only(constraints: str) -> str:
    """Pin torch to its CPU build: where only another can be had, pip then fails instead of fetching gigabytes."""
    return re.sub(r"^(torch==[^+\s]+)$", r"\1+cpu", constraints, flags=re.MULTILINE)


def weigh(image: str) -> dict[str, Any]:
    """Return its id, megabytes unpacked and compressed, files, and the Python packages with their versions."""
    counts = docker("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python3", image, "-c", _COUNTS)
    found = json.loads(counts)
    return {
        "image_id": docker("image", "inspect", "--format", "{{.Id}}", image),
        "image_mb": round(int(docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6, 1),
        "compressed_mb": round(_compressed_bytes(image) / 1e6, 1),
        "files": found["files"],
        "packages": len(found["packages"]),
        "versions": dict(sorted(found["packages"].items())),
    }


def _fill(context: Path, peer: Peer) -> None:
    """Put a build's context together: only what the image needs."""
    shutil.copyfile(IMAGES / "peer.Dockerfile", context / "Dockerfile")
    shutil.copyfile(peer.function, context / "function.py")
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (context / "constraints.txt").write_text(cpu_only(constraints), encoding="utf-8")
    (context / "requirements").mkdir()
    requirements = f"{peer.requirements}.txt"
    shutil.copyfile(_REQUIREMENTS / requirements, context / "requirements" / requirements)
    shutil.copytree(prepare_model(peer.model), context / "model", ignore=shutil.ignore_patterns("*.md", ".*"))
    (context / "links").mkdir()
    for wheel in _torch_wheels() if peer.with_torch else ():
        shutil.copyfile(wheel, context / "links" / wheel.name)


def _torch_wheels() -> list[Path]:
    """Return the wheels of torch in local folders that pip is told of: no build can see those folders."""
    folders = [Path(part) for part in os.environ.get("PIP_FIND_LINKS", "").split() if Path(part).is_dir()]
    return [wheel for folder in folders for wheel in sorted(folder.glob("torch-*.whl"))]


def _digest(context: Path, base_image: str) -> str:
    """Tell builds apart by their inputs; the base image takes part by what it is now, where it is here."""
    digest = hashlib.sha256(f"{base_image} {_inspect(base_image, '{{.Id}}')}".encode())
    for path in sorted(each for each in context.rglob("*") if each.is_file()):
        name = str(path.relative_to(context))
        content = b"" if path.suffix == ".whl" else path.read_bytes()
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def _label(image: str) -> str:
    return _inspect(image, f'{{{{index .Config.Labels "{_DIGEST_LABEL}"}}}}')


def _inspect(image: str, what: str) -> str:
    try:
        return docker("image", "inspect", "--format", what, image)
    except SystemFailedError:
        return ""


def _compressed_bytes(image: str) -> int:
    """Return what the image's layers take with gzip, as registries keep them."""
    packer, size = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT), 0
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:  # noqa: S603, S607 - our own words
        assert saving.stdout is not None  # noqa: S101 - asked for
        while piece := saving.stdout.read(_PIECE_BYTES):
            size += len(packer.compress(piece))
    if saving.returncode != 0:
        raise SystemFailedError(f"docker save {image} failed")
    return size + len(packer.flush())
