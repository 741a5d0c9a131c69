"""What is in the image, and what is not."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from image_tools import IMAGE, docker, inspect, need_image, python_inside
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.usefixtures("image")


@pytest.fixture(scope="module")
def image() -> None:
    need_image()


# Looks at everything from inside: as root, who sees all of it.
_LOOK = """
import importlib.metadata, importlib.util, json, os, shutil, stat
paths = []
for top, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(top, name) not in ("/proc", "/sys", "/dev", "/tmp")]
    paths += [os.path.join(top, name) for name in folders + files]
modes = {path: os.lstat(path).st_mode for path in paths}
real = {path: mode for path, mode in modes.items() if not stat.S_ISLNK(mode)}
ours = ("/opt/", "/var/task/")
print(json.dumps({
    "paths": paths,
    "writable": [path for path, mode in real.items() if mode & stat.S_IWOTH and not mode & stat.S_ISVTX],
    "unreadable": [path for path, mode in real.items() if path.startswith(ours) and not mode & stat.S_IROTH],
    "raised": [path for path, mode in real.items() if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(mode)],
    "dangling": [path for path in modes.keys() - real if path.startswith(ours) and not os.path.exists(path)],
    "packages": {found.name: found.version for found in importlib.metadata.distributions()},
}))
"""


@cache
def contents() -> dict[str, Any]:
    """Return what stands where, with which rights, and which Python packages there are."""
    command = ("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python3", IMAGE, "-c", _LOOK)
    found: dict[str, Any] = json.loads(docker(*command))
    return found


@cache
def bill() -> tuple[str, dict[str, Any]]:
    """Return the image's SBOM, as text and as it reads."""
    text = docker("run", "--rm", "--network", "none", "--entrypoint", "cat", IMAGE, "/opt/sbom.cdx.json")
    return text, json.loads(text)


@cache
def manifest() -> dict[str, Any]:
    """Return the manifest of the artifact inside."""
    path = "/opt/artifact/manifest.json"
    read: dict[str, Any] = json.loads(docker("run", "--rm", "--network", "none", "--entrypoint", "cat", IMAGE, path))
    return read


def test_nothing_that_builds_bakes_or_tests_is_inside() -> None:
    script = """
import importlib.util, json, shutil
modules = [
    "torch", "transformers", "sentence_transformers", "optimum", "onnx", "onnxruntime", "huggingface_hub", "ziglang",
    "pip", "setuptools", "wheel", "ensurepip", "pytest", "hypothesis", "moto", "ministack", "fakeredis", "cyclonedx",
    "model_bake", "evaluation", "bulk", "local", "cli", "tests", "benchmarks", "docker",
]
tools = ["pip", "pip3", "gcc", "g++", "cc", "clang", "ld", "make", "cmake", "git", "curl", "wget", "zig"]
print(json.dumps([name for name in modules if importlib.util.find_spec(name)] + list(filter(shutil.which, tools))))
"""
    assert json.loads(python_inside(script)) == []


def test_no_sources_of_c_caches_or_tests_are_inside() -> None:
    ours = [path for path in contents()["paths"] if path.startswith(("/opt/", "/var/task/"))]
    assert "/var/task/handlers/queue.py" in ours
    assert [path for path in ours if path.endswith((".h", ".a", ".pyx", ".pxd", ".pyi"))] == []
    assert [path for path in ours if path.startswith("/opt/python/embakery/") and path.endswith(".c")] == []
    assert [path for path in ours if path.rpartition("/")[2] in {"tests", "test", ".git", "constraints.txt"}] == []
    caches = ("/root/.cache/", "/var/lib/apt/lists/deb", "/var/cache/apt/archives/", "/home/")
    left = [path for path in contents()["paths"] if path.startswith(caches)]
    assert [path for path in left if not path.endswith(("/partial", "/lock"))] == []


def test_nobody_but_root_may_write_and_everybody_may_read() -> None:
    assert contents()["writable"] == []
    assert contents()["unreadable"] == []
    assert contents()["dangling"] == []


def test_programs_with_raised_rights_are_the_base_s_own() -> None:
    """A file that a Debian package brought is the base image's; nothing of ours is, and nothing of ours needs any."""
    script = "import glob; print(*(open(path).read() for path in glob.glob('/var/lib/dpkg/info/*.list')), sep='')"
    known = set(python_inside(script).splitlines())
    # dpkg knows /bin as it was before it became a link to /usr/bin.
    known |= {f"/usr{path}" for path in known}
    assert [path for path in contents()["raised"] if path not in known] == []


def test_it_does_not_run_as_root() -> None:
    config = inspect()["Config"]
    assert config["User"].partition(":")[0] not in {"", "0", "root"}
    assert config["Entrypoint"] == ["python3", "-S", "-m", "handlers"]
    assert not any("SECRET" in variable or "TOKEN" in variable for variable in config["Env"])


def test_every_module_is_compiled_and_nothing_is_compiled_at_the_start() -> None:
    """The file system is read-only: what is compiled at a start is compiled at every start."""
    script = """
import handlers.api, handlers.queue, handlers.queue_services, handlers.start
import storage.claim_check, storage.dynamodb, storage.redis_backend, storage.s3, storage.source_queue, storage.sqs
import awslambdaric.bootstrap, botocore.session, embakery.engines.native.engine, numpy, storage.trail
"""
    command = ("run", "--rm", "--network", "none", "--read-only", "--user", "993:990", "--entrypoint", "sh", IMAGE)
    said = docker(*command, "-c", f"python3 -v -c '{script}' 2>&1")
    loaded = [line.rpartition(" from ")[2].strip("'\"") for line in said.splitlines() if "# code object from" in line]
    assert any(path.startswith("/var/task/handlers/__pycache__/queue.") for path in loaded)
    assert any("/embakery/__pycache__/embed." in path for path in loaded)
    assert [path for path in loaded if not path.endswith(".pyc")] == []
    paths = [path for path in contents()["paths"] if path.startswith(("/opt/python/", "/var/task/"))]
    compiled = {path.replace("/__pycache__", "").partition(".cpython")[0] for path in paths if path.endswith(".pyc")}
    assert {path.removesuffix(".py") for path in paths if path.endswith(".py")} - compiled == set()


def test_the_bill_of_materials_lists_every_package_there_is_and_no_other() -> None:
    text, read = bill()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    purls = [component.get("purl", "") for component in read["components"]]
    listed = {tuple(purl.removeprefix("pkg:pypi/").split("@")) for purl in purls if purl.startswith("pkg:pypi/")}
    assert listed == {(canonicalize_name(name), version) for name, version in contents()["packages"].items()}
    names = {name for name, _ in listed}
    assert {"embakery", "awslambdaric", "numpy", "tokenizers", "redis", "botocore", "aws-lambda-powertools"} <= names


def test_the_bill_of_materials_names_the_model() -> None:
    (model,) = [part for part in bill()[1]["components"] if part["type"] == "machine-learning-model"]
    facts = {entry["name"]: entry["value"] for entry in model["properties"]}
    assert (model["name"], facts["embakery:space_id"]) == (manifest()["model_id"], manifest()["space_id"])
    files = {path.rpartition("/")[2] for path in contents()["paths"] if path.startswith("/opt/artifact/")}
    listed = {name.removeprefix("embakery:sha256:") for name in facts if name.startswith("embakery:sha256:")}
    assert listed == files - {"manifest.json"}
    for name in listed:
        assert facts[f"embakery:sha256:{name}"] == manifest()["files"][name]["sha256"]


def test_labels_agree_with_the_manifest() -> None:
    labels = inspect()["Config"]["Labels"] or {}
    if "embakery.space-id" not in labels:
        pytest.skip("built without labels: `make image` adds them")
    assert labels["embakery.space-id"] == manifest()["space_id"]
    assert labels["embakery.model"] == manifest()["model_id"]
    assert labels["embakery.model.revision"] == (manifest()["revision"] or "")
    assert labels["embakery.model.licence"] == (manifest()["licence"] or "")
    assert labels["embakery.artifact-digest"] == manifest()["digest"]
    assert labels["org.opencontainers.image.title"] == "embakery"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == contents()["packages"]["embakery"]
