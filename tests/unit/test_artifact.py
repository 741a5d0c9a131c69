"""A baked folder is taken only byte for byte as it was baked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit_fakes import (
    FACTS,
    change_manifest,
    list_file,
    list_reranker,
    write_artifact,
    write_cross_encoder,
)

from embakery.artifact import (
    SCHEMA,
    Artifact,
    EngineFacts,
    FileFacts,
    Golden,
    Manifest,
    Space,
    file_facts,
    golden_file,
    space_id,
)
from embakery.errors import ArtifactError, DigestMismatchError

FILES = ["certificate.json", "encoder.onnx", "golden.npz", "tokenizer.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "artifact")


def refusal(folder: Path, kind: type[ArtifactError] = DigestMismatchError) -> str:
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(folder)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_whole_artifact_is_taken(folder: Path) -> None:
    artifact = Artifact.load(str(folder))
    assert artifact.path == folder
    assert artifact.encoder == folder / "encoder.onnx"
    assert artifact.certificate() == {"cosine": 1.0}
    assert artifact.manifest.dimension == 4
    assert sorted(artifact.manifest.files) == FILES
    assert artifact.golden("fake").ids == ((1, 3, 2), (1, 4, 5, 2))
    assert artifact.golden("fake").vectors.shape == (2, 4)


def test_the_artifact_may_be_moved(folder: Path, tmp_path: Path) -> None:
    assert Artifact.load(shutil.move(folder, tmp_path / "elsewhere")).manifest.model_id == "tiny"


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_anywhere_in_a_file_is_refused_naming_it(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    for place in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert refusal(folder) == f"{name}: its sha256 differs; bake or deploy the artifact again"


def test_every_flipped_byte_of_the_manifest_is_refused_naming_it(folder: Path) -> None:
    path = folder / "manifest.json"
    data = path.read_bytes()
    for place, byte in enumerate(data):
        for flip in (1, 32):
            path.write_bytes(data[:place] + bytes([byte ^ flip]) + data[place + 1 :])
            with pytest.raises(ArtifactError, match=r"^manifest\.json: "):
                Artifact.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data + b"\n", id="a line more"),
        pytest.param(lambda data: data[:-1], id="no last line end"),
        pytest.param(lambda data: data.replace(b"\n", b"\r\n"), id="other line ends"),
        pytest.param(lambda data: data.replace(b"  ", b"    "), id="other indentation"),
        pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="byte order mark"),
        pytest.param(lambda data: data.replace(b'"normalize": false', b'"normalize": 0'), id="other type"),
        pytest.param(lambda data: data.replace(b'"tiny"', b'"tiny", "extra": 1'), id="a field more"),
    ],
)
def test_a_rewritten_manifest_is_refused(folder: Path, change: Any) -> None:
    path = folder / "manifest.json"
    data = path.read_bytes()
    path.write_bytes(change(data))
    assert path.read_bytes() != data
    with pytest.raises(ArtifactError, match=r"^manifest\.json: "):
        Artifact.load(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"schema": 1}', b"[" * 100_000, b'{"schema": 2, "files": []}'],
    ids=["empty", "object", "array", "null", "bytes", "schema 1", "deep", "partly"],
)
def test_what_is_no_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    assert refusal(folder, ArtifactError) == "manifest.json: not a manifest of schema 3; bake the model again"


def test_another_schema_with_a_right_digest_is_refused(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(replace(Manifest.from_bytes(data), schema=1).to_bytes())
    assert refusal(folder, ArtifactError) == "manifest.json: not a manifest of schema 3; bake the model again"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{name}: missing; bake or deploy the artifact again"


def test_a_missing_manifest_says_how_to_get_one(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").unlink()
    assert (
        refusal(folder, ArtifactError) == f"{folder}: no manifest.json can be read there; bake one with `embakery bake`"
    )
    assert refusal(tmp_path / "nowhere", ArtifactError).startswith(f"{tmp_path}/nowhere: no manifest.json")


@pytest.mark.parametrize("name", ["extra.bin", ".hidden", "encoder.onnx.bak"])
def test_a_file_more_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    assert refusal(folder) == f"{name}: not part of the artifact; remove it"


def test_a_folder_more_is_named(folder: Path) -> None:
    (folder / "reranker").mkdir()
    assert refusal(folder) == "reranker: not part of the artifact; remove it"


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_longer_file_is_named_with_its_sizes(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    size = len(data)
    path.write_bytes(data[:-1])
    assert refusal(folder) == f"{name}: {size - 1} bytes instead of {size}; bake or deploy the artifact again"
    path.write_bytes(data + b"\0")
    assert refusal(folder) == f"{name}: {size + 1} bytes instead of {size}; bake or deploy the artifact again"


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_link_is_refused_even_to_the_same_content(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    assert refusal(folder) == f"{name}: is a symbolic link"


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").mkdir()
    with pytest.raises(ArtifactError, match=r"^encoder\.onnx: "):
        Artifact.load(folder)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "sub/file", "..", ".", "", "manifest.json", "encoder.onnx/"]
)
def test_a_name_that_leads_elsewhere_is_refused_though_the_digest_is_right(folder: Path, name: str) -> None:
    shutil.copy(folder / "encoder.onnx", folder.parent / "outside")
    list_file(folder, name)
    assert refusal(folder, ArtifactError) == "manifest.json: lists a name that is not a plain file name"


# The cross-encoder beside the encoder


@pytest.fixture
def reranked(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "reranked", reranker=True)


def test_a_cross_encoder_beside_the_encoder_is_taken(reranked: Path, folder: Path) -> None:
    artifact = Artifact.load(reranked)
    assert artifact.reranker is not None
    assert artifact.reranker.path == reranked / "reranker"
    assert (artifact.reranker.manifest.kind, artifact.reranker.manifest.dimensions) == ("cross-encoder", (1,))
    assert artifact.reranker.golden("fake").types == ((0, 0, 0, 1, 1), (0, 0, 0, 1, 1, 1))
    # It is no part of the encoder's space: the same vectors stay comparable when a reranker is added.
    assert artifact.manifest.space_id == Artifact.load(folder).manifest.space_id
    assert Artifact.load(folder).reranker is None


def test_a_cross_encoder_may_stand_alone(tmp_path: Path) -> None:
    alone = Artifact.load(write_cross_encoder(tmp_path / "alone", labels=3))
    assert (alone.manifest.kind, alone.manifest.dimensions, alone.reranker) == ("cross-encoder", (3,), None)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_changed_missing_or_linked_file_of_the_reranker_is_named(reranked: Path, tmp_path: Path, name: str) -> None:
    path = reranked / "reranker" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert refusal(reranked) == f"reranker/{name}: its sha256 differs; bake or deploy the artifact again"
    path.write_bytes(data[:-1])
    cut = f"{len(data) - 1} bytes instead of {len(data)}"
    assert refusal(reranked) == f"reranker/{name}: {cut}; bake or deploy the artifact again"
    path.unlink()
    with pytest.raises(ArtifactError, match=rf"^reranker/{name}: (missing|cannot be read)"):
        Artifact.load(reranked)
    (tmp_path / "outside").write_bytes(data)
    path.symlink_to(tmp_path / "outside")
    assert refusal(reranked) == f"reranker/{name}: is a symbolic link"


def test_a_file_more_in_the_reranker_is_named(reranked: Path) -> None:
    (reranked / "reranker" / "extra.bin").write_bytes(b"")
    assert refusal(reranked) == "reranker/extra.bin: not part of the artifact; remove it"


def test_a_missing_or_linked_reranker_is_refused(reranked: Path, tmp_path: Path) -> None:
    shutil.move(reranked / "reranker", tmp_path / "outside")
    assert refusal(reranked) == "reranker: missing; bake or deploy the artifact again"
    (reranked / "reranker").symlink_to(tmp_path / "outside")
    assert refusal(reranked) == "reranker: is a symbolic link"
    (reranked / "reranker").unlink()
    (reranked / "reranker").write_bytes(b"a file")
    assert refusal(reranked, ArtifactError) == "reranker/manifest.json: cannot be read"


def replace_reranker(reranked: Path) -> Path:
    """Make room for another folder in the reranker's place."""
    shutil.rmtree(reranked / "reranker")
    return reranked / "reranker"


def test_an_encoder_in_the_reranker_s_place_is_refused(reranked: Path) -> None:
    write_artifact(replace_reranker(reranked))
    list_reranker(reranked)
    assert refusal(reranked, ArtifactError) == "reranker/manifest.json: is not a cross-encoder's"


def test_a_reranker_of_several_labels_is_refused(reranked: Path) -> None:
    write_cross_encoder(replace_reranker(reranked), labels=3)
    list_reranker(reranked)
    assert refusal(reranked, ArtifactError) == "reranker/manifest.json: gives several labels, a reranker gives one"


def test_a_reranker_s_own_reranker_is_refused_and_its_faults_are_named(reranked: Path) -> None:
    write_cross_encoder(reranked / "reranker" / "reranker")
    assert refusal(reranked) == "reranker/reranker: not part of the artifact; remove it"
    list_reranker(reranked / "reranker")
    list_reranker(reranked)
    assert refusal(reranked, ArtifactError) == "reranker/manifest.json: is not a cross-encoder's"
    (reranked / "reranker" / "reranker" / "encoder.onnx").unlink()
    assert refusal(reranked) == "reranker/reranker/encoder.onnx: missing; bake or deploy the artifact again"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/file", "..", "reranker"])
def test_a_name_that_leads_out_of_the_reranker_is_refused(reranked: Path, name: str) -> None:
    list_file(reranked / "reranker", name)
    list_reranker(reranked)
    assert refusal(reranked, ArtifactError) == "reranker/manifest.json: lists a name that is not a plain file name"


def test_the_reranker_is_not_listed_as_a_file(folder: Path) -> None:
    list_file(folder, "reranker")
    assert refusal(folder, ArtifactError) == "manifest.json: lists a name that is not a plain file name"


# The manifest


def test_a_manifest_reads_back_equal_and_writes_the_same_bytes() -> None:
    manifest = Manifest(
        schema=SCHEMA,
        space_id="0" * 32,
        kind="encoder",
        architecture="bert",
        model_id="modèle/語",
        revision="abc",
        licence=None,
        dimensions=(384, 128),
        max_tokens=256,
        pooling="mean",
        normalize=True,
        prompts={"query": "query: ", "document": ""},
        engine=EngineFacts("onnx", "contract/1", "w8a8"),
        files={"z.bin": FileFacts("aa", 1), "a.bin": FileFacts("bb", 2)},
    )
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data) == manifest
    assert Manifest.from_bytes(data).to_bytes() == data
    assert replace(manifest, files=dict(reversed(list(manifest.files.items())))).to_bytes() == data
    assert json.loads(data)["dimensions"] == [384, 128]


def test_file_facts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_facts(tmp_path / "file") == FileFacts(digest, 3)


# The space


SPACE: dict[str, Any] = {
    "kind": "encoder",
    "weights_sha256": "aa",
    "tokenizer_sha256": "bb",
    "golden_sha256": "cc",
    "max_tokens": 256,
    "pooling": "mean",
    "normalize": True,
    "prompts": {"query": "query: "},
    "engine": FACTS,
}


def test_the_space_id_is_fixed_for_all_time() -> None:
    """Vectors, cache keys and results are stamped with it: a change of its rules orphans them all."""
    assert space_id(**SPACE) == "cb524d06b7ec72f4ba0854ceea2e7cf1"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "cross-encoder"},
        {"weights_sha256": "ab"},
        {"tokenizer_sha256": "ab"},
        {"golden_sha256": "ab"},
        {"max_tokens": 255},
        {"pooling": "cls"},
        {"normalize": False},
        {"prompts": {}},
        {"prompts": {"document": "query: "}},
        {"engine": replace(FACTS, name="native")},
        {"engine": replace(FACTS, contract="fake/2")},
        {"engine": replace(FACTS, quantization="int8")},
    ],
)
def test_whatever_changes_bits_changes_the_space(change: dict[str, Any]) -> None:
    assert space_id(**{**SPACE, **change}) != space_id(**SPACE)


def test_names_do_not_change_the_space(tmp_path: Path) -> None:
    first = Artifact.load(write_artifact(tmp_path / "first", model_id="one"))
    second = Artifact.load(write_artifact(tmp_path / "second", model_id="two"))
    assert first.manifest.model_id != second.manifest.model_id
    assert first.manifest.space_id == second.manifest.space_id


def test_the_order_of_prompts_does_not_change_the_space() -> None:
    there = space_id(**{**SPACE, "prompts": {"query": "q", "document": "d"}})
    assert space_id(**{**SPACE, "prompts": {"document": "d", "query": "q"}}) == there


# Two engines, two spaces


def test_a_loaded_model_is_stamped_with_the_space_of_the_engine_that_serves(folder: Path) -> None:
    other = Space("f" * 32, replace(FACTS, name="onnx"))
    manifest = replace(Artifact.load(folder).manifest, other_space=other)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert manifest.engines == ("fake", "onnx")
    assert manifest.served_by("fake") is manifest
    served = manifest.served_by("onnx")
    assert (served.space_id, served.engine.name, served.engines) == ("f" * 32, "onnx", ("onnx",))
    with pytest.raises(ArtifactError, match="was baked without the engine native"):
        manifest.served_by("native")


def test_each_engine_has_golden_vectors_of_its_own(folder: Path) -> None:
    assert (golden_file("native"), golden_file("onnx")) == ("golden.native.npz", "golden.npz")


# Golden vectors


def test_golden_vectors_come_back_bit_for_bit(tmp_path: Path) -> None:
    vectors = np.array([[1e-45, -0.0], [3.25, -1.5], [0.1, 0.2]], dtype=np.float32)
    Golden(((1, 2), (7,), (3, 2**31 - 1, 4)), vectors).save(tmp_path / "golden.npz")
    golden = Golden.load(tmp_path / "golden.npz")
    assert golden.ids == ((1, 2), (7,), (3, 2**31 - 1, 4))
    assert golden.vectors.tobytes() == vectors.tobytes()


def test_the_same_golden_vectors_are_the_same_bytes(tmp_path: Path) -> None:
    """Whatever wrote them: the space id is made of this digest. Python 3.11.2, 3.11.7, 3.12 and 3.13 agree on it."""
    golden = Golden(((1, 2, 3), (4,)), np.arange(8, dtype=np.float32).reshape(2, 4))
    golden.save(tmp_path / "golden.npz")
    digest = "88cf7f5d0c9250d7a6834103a836a9b6b8a2045e4e85bf5dffc436fc2ec627e8"
    assert file_facts(tmp_path / "golden.npz").sha256 == digest


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", b"PK\x03\x04 cut short", b"\x80\x04."], ids=["empty", "rubbish", "zip", "pickle"]
)
def test_unreadable_golden_vectors_are_an_artifact_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"^golden\.npz: cannot be read$"):
        Golden.load(tmp_path / "golden.npz")


def test_golden_vectors_of_other_arrays_are_an_artifact_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", vectors=np.ones(3))
    with pytest.raises(ArtifactError, match=r"^golden\.npz: cannot be read$"):
        Golden.load(tmp_path / "golden.npz")


def test_the_fake_artifact_can_be_changed_with_a_right_digest(folder: Path) -> None:
    """The tests above stand on this: only what they change is wrong."""
    change_manifest(folder, lambda manifest: replace(manifest, model_id="other"))
    assert Artifact.load(folder).manifest.model_id == "other"
