"""The zip: what is in it, what it may weigh, and that the same files give the same bytes."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import package
import pytest
from built_package import Built
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

MIB = 2**20


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "first", b="2", a="1", deeper__c="3")
    second = write(tmp_path / "second", deeper__c="3", a="1", b="2")
    os.utime(second / "a", (1, 1))
    (second / "b").chmod(0o700)
    package.write_zip(first, tmp_path / "first.zip")
    package.write_zip(second, tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    entries = zipfile.ZipFile(tmp_path / "first.zip").infolist()
    assert [entry.filename for entry in entries] == ["a", "b", "deeper/c"]
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_what_lambda_would_refuse_is_refused_here() -> None:
    package.check_size(250 * MIB)
    with pytest.raises(package.PackageError, match=r"^250\.0 MB unpacked, .* leave extras out, or deploy the image"):
        package.check_size(250 * MIB + 1)


@pytest.mark.parametrize(
    ("zipped", "way"), [(50 * MIB, "may be uploaded as it is"), (50 * MIB + 1, "goes to Lambda through S3")]
)
def test_the_summary_says_how_it_gets_there(zipped: int, way: str) -> None:
    said = package.summary(package.Target("arm64", "3.13"), 11, 100 * MIB, zipped, compiled=True)
    assert said.splitlines()[:2] == ["arm64, Python 3.13, 11 packages", "unpacked: 100.0 MB of 250.0 MB"]
    assert way in said.splitlines()[2]


def test_the_summary_says_what_was_not_done() -> None:
    said = package.summary(package.Target("arm64", "3.14"), 11, MIB, MIB, compiled=False)
    assert said.endswith("not compiled to bytecode, which slows INIT: no Python 3.14 was found here")


def test_nothing_is_compiled_by_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert package.find_interpreter("3.99") is None
    assert not package.compile_all(write(tmp_path / "task", a="1"), "3.99")


def test_requirements_are_those_of_the_target(tmp_path: Path) -> None:
    def install(name: str, *requires: str) -> None:
        lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1", *(f"Requires-Dist: {one}" for one in requires)]
        write(tmp_path, **{f"{name}-1.dist-info__METADATA": "\n".join(lines)})

    install(
        "app", "new; python_version >= '3.13'", "arm; platform_machine == 'aarch64'", "old; python_version < '3.13'"
    )
    install("tokenizers", "huggingface-hub", "windows; sys_platform == 'win32'", "tests; extra == 'dev'")
    assert package.missing(tmp_path, package.Target("arm64", "3.13")) == ["arm", "new"]
    assert package.missing(tmp_path, package.Target("x86_64", "3.12")) == ["old"]


def test_half_of_an_artifact_is_left_behind(default_artifact: Path, tmp_path: Path) -> None:
    package.copy_artifact(default_artifact, tmp_path / "native", with_onnx=False)
    package.copy_artifact(default_artifact, tmp_path / "both", with_onnx=True)
    left = {path.name for path in default_artifact.iterdir()} - {path.name for path in (tmp_path / "native").iterdir()}
    assert left == {"encoder.onnx", "golden.npz"}
    assert len(list((tmp_path / "both").iterdir())) == len(list(default_artifact.iterdir()))


def test_a_model_for_onnxruntime_needs_it(tmp_path: Path) -> None:
    artifact = write(tmp_path / "artifact", **{"manifest.json": "{}", "encoder.onnx": ""})
    with pytest.raises(package.PackageError, match=r"^the native engine cannot serve this model: give --extras onnx$"):
        package.copy_artifact(artifact, tmp_path / "copy", with_onnx=False)
    with pytest.raises(package.PackageError, match="run 'make artifact' first"):
        package.copy_artifact(tmp_path / "nowhere", tmp_path / "other", with_onnx=True)


def test_the_package_holds_what_runs_and_nothing_of_this_machine(built: Built) -> None:
    archive = zipfile.ZipFile(built.archive)
    names = set(archive.namelist())
    assert {
        "handlers/snapstart.py",
        "storage/clients.py",
        "artifact/encoder.pack",
        "artifact/golden.native.npz",
    } <= names
    assert "embakery/engines/native/libembakery.so" in names
    assert {name.partition("/")[0] for name in names if "onnx" in name} <= {"embakery"}
    # The managed runtime brings them.
    assert not [name for name in names if name.startswith(("awslambdaric", "snapshot_restore_py"))]
    assert not [name for name in names if name.endswith(("RECORD", "direct_url.json", ".pyi", ".h"))]
    here = str(built.out.parents[2]).encode()
    assert [name for name in names if name.endswith((".py", ".pyc", "METADATA")) and here in archive.read(name)] == []


def test_everything_is_compiled_and_checked_by_nobody(built: Built) -> None:
    if package.find_interpreter(built.target.python) is None:
        pytest.skip(f"no Python {built.target.python} here")
    archive = zipfile.ZipFile(built.archive)
    sources = [name for name in archive.namelist() if name.endswith(".py")]
    compiled = [name for name in archive.namelist() if name.endswith(".pyc")]
    assert len(compiled) == len(sources)
    # PEP 552: bit 0, by hash; bit 1, checked.
    assert {archive.read(name)[4] for name in compiled} == {1}
    assert b"/var/task/handlers/snapstart.py" in archive.read(next(one for one in compiled if "/snapstart." in one))


def test_the_package_fits_and_its_parts_are_listed(built: Built) -> None:
    sizes = [entry.file_size for entry in zipfile.ZipFile(built.archive).infolist()]
    assert sum(sizes) <= package.MOST_BYTES
    text = (built.out / "sbom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    kinds = [component["type"] for component in components]
    assert kinds.count("machine-learning-model") == 1
    assert f"{kinds.count('library')} packages" in built.said
    assert {"embakery", "numpy", "redis"} <= {component["name"] for component in components}
