"""Graphs built from files, against the models that transformers makes of the same files, and optimum's exports."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from bake_models import FAMILY_VOCABULARY, HIDDEN, SEED, save_family, save_model
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file
from transformers import AutoConfig, AutoModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from embakery.engines.onnx import open_session
from embakery.engines.runtime import onnxruntime as ort
from embakery.errors import ConfigurationError
from model_bake import nodes
from model_bake.bert_family import _bucket as bucket
from model_bake.bert_family import build_cross_encoder, build_encoder
from model_bake.bert_layout import FAMILIES, family_shape, is_family
from model_bake.source import find_model

Ids = NDArray[np.int64]
TOLERANCE = 1e-5
LENGTHS = (1, 2, 7, 40)
TYPES = [family.model_type for family in FAMILIES]


def random_ids(tokens: int, *, texts: int = 3, vocabulary: int = FAMILY_VOCABULARY) -> Ids:
    """Any token may come, and the pad token (0 or 1) does."""
    ids = np.random.default_rng([SEED, tokens]).integers(0, vocabulary, (texts, tokens))
    ids[0, tokens // 2 : tokens // 2 + 2] = 1
    ids[1, tokens // 3] = 0
    return ids


def save(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.checker.check_model(model, full_check=True)
    path = folder / "graph.onnx"
    onnx.save(model, path)
    return path


def session_of(model: onnx.ModelProto, folder: Path) -> Any:
    return open_session(save(model, folder))


def original_tokens(model: Any, ids: Ids) -> NDArray[np.float32]:
    given = torch.from_numpy(ids)
    with torch.no_grad():
        output = model(input_ids=given, attention_mask=torch.ones_like(given))
    return np.asarray(output.last_hidden_state, dtype=np.float32)


def exported_session(network: Any, folder: Path) -> Any:
    """Export by optimum, as architectures outside these families are."""
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager

    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", network, task="feature-extraction", library_name="transformers"
    )
    path = folder / "optimum.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("optimum").setLevel(logging.ERROR)
        export(model=network, config=constructor(network.config), output=path, opset=nodes.OPSET)
    return open_session(path)


def exported_tokens(session: Any, ids: Ids) -> NDArray[np.float32]:
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (output,) = session.run(["last_hidden_state"], {value.name: feed[value.name] for value in session.get_inputs()})
    return np.asarray(output)


@pytest.mark.parametrize("model_type", TYPES)
def test_every_family_equals_its_original_and_the_export(model_type: str, tmp_path: Path) -> None:
    original = save_family(tmp_path / "model", model_type)
    ours = session_of(build_encoder(tmp_path / "model"), tmp_path)
    exported = exported_session(original, tmp_path)
    for tokens in LENGTHS:
        ids = random_ids(tokens)
        (ours_here,) = ours.run(["token_embeddings"], {"input_ids": ids})
        assert ours_here.shape == (3, tokens, HIDDEN)
        np.testing.assert_allclose(ours_here, original_tokens(original, ids), atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(ours_here, exported_tokens(exported, ids), atol=TOLERANCE, rtol=0)


def test_the_default_model_equals_its_original_and_the_export(tmp_path: Path) -> None:
    folder = find_model("all-MiniLM-L6-v2").folder
    original = AutoModel.from_pretrained(str(folder), attn_implementation="eager").eval()
    ours = session_of(build_encoder(folder), tmp_path)
    exported = exported_session(original, tmp_path)
    for tokens in (*LENGTHS, 256):
        ids = random_ids(tokens, vocabulary=30522)
        (ours_here,) = ours.run(["token_embeddings"], {"input_ids": ids})
        np.testing.assert_allclose(ours_here, original_tokens(original, ids), atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(ours_here, exported_tokens(exported, ids), atol=TOLERANCE, rtol=0)


def test_a_saved_sentence_transformer_is_a_family_model(tmp_path: Path) -> None:
    original = save_model(tmp_path / "model")
    ours = session_of(build_encoder(tmp_path / "model"), tmp_path)
    ids = random_ids(7)
    (ours_here,) = ours.run(None, {"input_ids": ids})
    network: Any = original[0]
    np.testing.assert_allclose(ours_here, original_tokens(network.auto_model, ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"])
def test_every_activation(name: str, tmp_path: Path) -> None:
    original = save_family(tmp_path / "model", "bert", settings={"hidden_act": name})
    ours = session_of(build_encoder(tmp_path / "model"), tmp_path)
    ids = random_ids(40)
    (ours_here,) = ours.run(None, {"input_ids": ids})
    np.testing.assert_allclose(ours_here, original_tokens(original, ids), atol=TOLERANCE, rtol=0)


def test_another_pad_token_and_one_token_type(tmp_path: Path) -> None:
    settings = {"pad_token_id": 5, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    original = save_family(tmp_path / "model", "roberta", settings=settings)
    shape = family_shape(tmp_path / "model")
    assert (shape.pad_token, shape.positions, shape.type_vocabulary, shape.eps) == (5, 58, 1, 1e-5)
    ours = session_of(build_encoder(tmp_path / "model"), tmp_path)
    ids = random_ids(40)
    ids[2, 3:6] = 5
    (ours_here,) = ours.run(None, {"input_ids": ids})
    np.testing.assert_allclose(ours_here, original_tokens(original, ids), atol=TOLERANCE, rtol=0)


def test_distances_far_beyond_the_last_bucket(tmp_path: Path) -> None:
    original = save_family(tmp_path / "model", "mpnet", settings={"max_position_embeddings": 302})
    ours = session_of(build_encoder(tmp_path / "model"), tmp_path)
    ids = random_ids(300)
    (ours_here,) = ours.run(None, {"input_ids": ids})
    np.testing.assert_allclose(ours_here, original_tokens(original, ids), atol=TOLERANCE, rtol=0)


def test_buckets_are_those_of_transformers() -> None:
    distances = torch.arange(-2000, 2001)
    untyped: Any = MPNetEncoder
    theirs = untyped.relative_position_bucket(distances, num_buckets=32)
    assert [bucket(int(distance)) for distance in distances] == theirs.tolist()


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("model_type", TYPES)
def test_every_cross_encoder_equals_its_original(model_type: str, labels: int, tmp_path: Path) -> None:
    original = save_family(tmp_path / "model", model_type, labels=labels)
    ours = session_of(build_cross_encoder(tmp_path / "model"), tmp_path)
    names = [value.name for value in ours.get_inputs()]
    typed = model_type not in {"distilbert", "mpnet"}
    assert names == (["input_ids", "token_type_ids"] if typed else ["input_ids"])
    for tokens in LENGTHS:
        ids = random_ids(tokens)
        types = np.tile((np.arange(tokens) >= tokens // 2).astype(np.int64), (3, 1))
        feed = {name: {"input_ids": ids, "token_type_ids": types}[name] for name in names}
        with torch.no_grad():
            given = {name: torch.from_numpy(value) for name, value in feed.items()}
            theirs = original(attention_mask=torch.ones(3, tokens, dtype=torch.int64), **given).logits
        (logits,) = ours.run(["logits"], feed)
        assert logits.shape == (3, labels)
        np.testing.assert_allclose(logits, theirs, atol=TOLERANCE, rtol=0)


def test_one_token_type_is_no_input_of_a_cross_encoder(tmp_path: Path) -> None:
    original = save_family(tmp_path / "model", "xlm-roberta", labels=2, settings={"type_vocab_size": 1})
    ours = session_of(build_cross_encoder(tmp_path / "model"), tmp_path)
    assert [value.name for value in ours.get_inputs()] == ["input_ids"]
    ids = random_ids(7)
    with torch.no_grad():
        theirs = original(torch.from_numpy(ids), torch.ones(3, 7, dtype=torch.int64)).logits
    np.testing.assert_allclose(ours.run(None, {"input_ids": ids})[0], theirs, atol=TOLERANCE, rtol=0)


def test_a_cross_encoder_s_trunk_is_an_encoder_too(tmp_path: Path) -> None:
    original = save_family(tmp_path / "model", "bert", labels=1)
    ours = session_of(build_encoder(tmp_path / "model"), tmp_path)
    ids = random_ids(7)
    (ours_here,) = ours.run(None, {"input_ids": ids})
    np.testing.assert_allclose(ours_here, original_tokens(original.bert, ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("size", "width"), [(384, 384), (384, 1), (384, 3), (768, 768), (30, 30), (33, 7), (1, 1)])
@pytest.mark.parametrize("prepacking", [True, False])
def test_a_head_s_bits_do_not_depend_on_the_batch(size: int, width: int, prepacking: bool, tmp_path: Path) -> None:
    draw = np.random.default_rng(SEED)
    weight = draw.standard_normal((width, size), dtype=np.float32)
    model = nodes.new_model("head")
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size]))
    first = nodes.per_text_linear(model.graph, "x", "first", weight, None)
    first = nodes.activate(model.graph, nodes.activate(model.graph, first, "tanh", "tanh"), "gelu", "gelu")
    weight, bias = draw.standard_normal((3, width), dtype=np.float32), draw.standard_normal(3, dtype=np.float32)
    nodes.per_text_linear(model.graph, first, "y", weight, bias)
    nodes.add_output(model.graph, "y", ["batch", 3])
    path = save(model, tmp_path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    # Without prepacked weights (batch, K) x (K, N) changed every row between a batch of one and more.
    options.add_session_config_entry("session.disable_prepacking", "0" if prepacking else "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = draw.standard_normal((64, size), dtype=np.float32)
    alone = [session.run(None, {"x": x[row : row + 1]})[0].tobytes() for row in range(64)]
    for batch in range(1, 65):
        rows = draw.permutation(64)[:batch]
        (together,) = session.run(None, {"x": x[rows]})
        assert [row.tobytes() for row in together] == [alone[row] for row in rows]


def test_the_bytes_are_the_same_every_time_and_the_names_are_the_contract(tmp_path: Path) -> None:
    save_family(tmp_path / "model", "mpnet")
    model = build_encoder(tmp_path / "model")
    assert model.SerializeToString() == build_encoder(tmp_path / "model").SerializeToString()
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    layer: dict[str, tuple[int, ...]] = {
        **{f"attention.{part}.weight": (32, 32) for part in ("query", "key", "value", "output")},
        **{f"attention.{part}.bias": (32,) for part in ("query", "key", "value", "output")},
        "ffn.up.weight": (32, 64),
        "ffn.up.bias": (64,),
        "ffn.down.weight": (64, 32),
        "ffn.down.bias": (32,),
        **{f"{part}.norm.{end}": (32,) for part in ("attention", "ffn") for end in ("gain", "bias")},
    }
    assert {name: shape for name, shape in shapes.items() if not name.startswith("constants.")} == {
        **{f"layers.{number}.{name}": shape for number in (0, 1) for name, shape in layer.items()},
        "embeddings.word": (100, 32),
        "embeddings.norm.gain": (32,),
        "embeddings.norm.bias": (32,),
        "embeddings.position": (63, 32),
        "attention.relative_bias": (4, 257),
    }
    assert {node.domain for node in model.graph.node} == {""}


def test_building_takes_neither_torch_nor_transformers(tmp_path: Path) -> None:
    save_family(tmp_path / "model", "bert", labels=1)
    program = """
import sys
from pathlib import Path
from model_bake.bert_family import build_cross_encoder, build_encoder
build_encoder(Path(sys.argv[1]))
build_cross_encoder(Path(sys.argv[1]))
print(sorted({"torch", "transformers", "optimum", "sentence_transformers"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_family(tmp_path / "model", "bert")
    return tmp_path / "model"


def stored(folder: Path) -> dict[str, NDArray[Any]]:
    return {name: np.array(value) for name, value in load_file(folder / "model.safetensors").items()}


def store(folder: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def forget(folder: Path, *keys: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in keys}))


def weights_of(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_become_float32(dtype: Any, model: Path) -> None:
    tensors = stored(model)
    store(model, {name: value.astype(dtype).astype(np.float32) for name, value in tensors.items()})
    expected = build_encoder(model).SerializeToString()
    given = {name: torch.from_numpy(value) for name, value in tensors.items()}
    kinds = {np.float16: torch.float16, ml_dtypes.bfloat16: torch.bfloat16, np.float64: torch.float64}
    save_torch_file({name: value.to(kinds[dtype]) for name, value in given.items()}, model / "model.safetensors")
    assert build_encoder(model).SerializeToString() == expected


def test_shards(model: Path, tmp_path: Path) -> None:
    expected = build_encoder(model).SerializeToString()
    AutoModel.from_pretrained(str(model)).save_pretrained(str(tmp_path / "sharded"), max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    assert build_encoder(tmp_path / "sharded").SerializeToString() == expected


def test_prefixed_and_older_names(model: Path) -> None:
    expected = build_encoder(model).SerializeToString()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in stored(model).items()
    }
    store(model, {f"bert.{name}": value for name, value in old.items()} | {"cls.predictions.bias": np.zeros(3)})
    assert build_encoder(model).SerializeToString() == expected


def test_buffers_of_older_checkpoints_are_passed_over(model: Path) -> None:
    expected = build_encoder(model).SerializeToString()
    store(model, stored(model) | {"embeddings.position_ids": np.arange(64)[None]})
    assert build_encoder(model).SerializeToString() == expected


@pytest.mark.parametrize("model_type", TYPES)
def test_settings_left_out_mean_what_they_mean_to_transformers(model_type: str, tmp_path: Path) -> None:
    save_family(tmp_path, model_type, settings={"max_position_embeddings": 512})
    left_out = ("layer_norm_eps", "hidden_act", "activation", "pad_token_id", "type_vocab_size")
    forget(tmp_path, *left_out, "max_position_embeddings", "relative_attention_num_buckets")
    config = AutoConfig.from_pretrained(str(tmp_path))
    shape = family_shape(tmp_path)
    assert shape.eps == getattr(config, "layer_norm_eps", 1e-12)
    assert shape.activation == (config.activation if model_type == "distilbert" else config.hidden_act)
    assert shape.type_vocabulary == getattr(config, "type_vocab_size", 0)
    assert shape.pad_token in {None, config.pad_token_id}
    assert shape.positions == config.max_position_embeddings - (0 if shape.pad_token is None else 2)


def test_is_family() -> None:
    sizes = {"hidden_size": 256, "embedding_size": 128}
    assert all(is_family({"model_type": kind, "hidden_size": 32, "embedding_size": 32}) for kind in TYPES)
    for config in ({}, {"model_type": "modernbert"}, {"model_type": ["bert"]}, {"model_type": "electra", **sizes}):
        assert not is_family(config)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "modernbert"}, r"model_type: 'modernbert' is none of bert, roberta"),
        ({"position_embedding_type": "relative_key"}, r"position_embedding_type: 'relative_key' cannot be built"),
        ({"is_decoder": True}, r"is_decoder: a decoder cannot be built"),
        ({"add_cross_attention": True}, r"add_cross_attention: cross-attention cannot be built"),
        ({"pruned_heads": {"0": [1]}}, r"pruned_heads: pruned heads cannot be built"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config: a quantized checkpoint"),
        ({"num_attention_heads": 5}, r"num_attention_heads: 5 heads do not divide the hidden size 32"),
        ({"hidden_act": "mish"}, r"hidden_act: activation 'mish' cannot be built, only gelu"),
        ({"hidden_act": None}, r"hidden_act: activation None cannot be built"),
        ({"hidden_size": "32"}, r"hidden_size: '32' is not an integer of at least 1"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers: 0 is not an integer"),
        ({"num_hidden_layers": True}, r"num_hidden_layers: True is not an integer"),
        ({"layer_norm_eps": 0}, r"layer_norm_eps: 0 is not a number above zero"),
        ({"layer_norm_eps": float("nan")}, r"layer_norm_eps: nan is not a number above zero"),
        ({"vocab_size": None}, r"vocab_size: None is not an integer"),
        (
            {"intermediate_size": 65},
            r"intermediate.dense.weight has the shape \[64, 32\], config.json wants \[65, 32\]",
        ),
        ({"num_hidden_layers": 3}, r"tensor encoder.layer.2.attention.self.query.weight \[32, 32\] is missing"),
    ],
)
def test_configurations_that_are_refused(settings: dict[str, Any], message: str, model: Path) -> None:
    change(model, **settings)
    with pytest.raises(ConfigurationError, match=message):
        build_encoder(model)


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("roberta", {"pad_token_id": 63}, r"pad_token_id: 63 leaves no positions"),
        ("roberta", {"pad_token_id": None}, r"pad_token_id: None is not an integer"),
        ("mpnet", {"relative_attention_num_buckets": 64}, r"relative_attention_num_buckets: only 32"),
        ("electra", {"embedding_size": 16}, r"model_type: 'electra' is none of .* embeddings as wide as its layers"),
        ("distilbert", {"activation": "mish"}, r"activation: activation 'mish'"),
    ],
)
def test_what_single_families_refuse(model_type: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_family(tmp_path, model_type)
    change(tmp_path, **settings)
    with pytest.raises(ConfigurationError, match=message):
        build_encoder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"vocab_size": ' + b"9" * 5000 + b"}"])
def test_a_broken_configuration(content: bytes, model: Path) -> None:
    (model / "config.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"config\.json: is not readable JSON"):
        build_encoder(model)


@pytest.mark.parametrize(("content", "kind"), [(b"[]", "list"), (b"null", "NoneType"), (b'"bert"', "str")])
def test_a_configuration_that_is_no_object(content: bytes, kind: str, model: Path) -> None:
    (model / "config.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"holds a JSON {kind}, not an object"):
        family_shape(model)


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.json: is missing"):
        build_encoder(tmp_path)


NAME = "encoder.layer.1.output.dense.weight"


def test_a_missing_tensor(model: Path) -> None:
    tensors = stored(model)
    del tensors[NAME]
    store(model, tensors)
    with pytest.raises(ConfigurationError, match=rf"tensor {NAME} \[32, 64\] is missing"):
        build_encoder(model)


@pytest.mark.parametrize("shape", [(64, 32), (32, 64, 1), (2048,)])
def test_a_tensor_of_another_shape(shape: tuple[int, ...], model: Path) -> None:
    store(model, stored(model) | {NAME: np.zeros(shape, np.float32)})
    with pytest.raises(ConfigurationError, match=rf"{NAME} has the shape \[.*\], config\.json wants \[32, 64\]"):
        build_encoder(model)


def test_a_tensor_that_would_be_left_out(model: Path) -> None:
    store(model, stored(model) | {"encoder.layer.0.attention.self.query.lora_A.weight": np.zeros((2, 32), np.float32)})
    with pytest.raises(ConfigurationError, match=r"query\.lora_A\.weight is no part of this model_type"):
        build_encoder(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value: float, model: Path) -> None:
    tensors = stored(model)
    tensors[NAME][3, 5] = value
    store(model, tensors)
    with pytest.raises(ConfigurationError, match=rf"tensor {NAME} holds NaN or infinity"):
        build_encoder(model)


def test_a_double_beyond_float32(model: Path) -> None:
    store(model, stored(model) | {NAME: np.full((32, 64), 1e300)})
    with pytest.raises(ConfigurationError, match=rf"tensor {NAME} holds NaN or infinity"):
        build_encoder(model)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.bool_])
def test_a_quantized_checkpoint(dtype: Any, model: Path) -> None:
    store(model, stored(model) | {NAME: np.zeros((32, 64), dtype)})
    with pytest.raises(ConfigurationError, match=rf"tensor {NAME} is .*, a quantized checkpoint; bake the original"):
        build_encoder(model)


def test_pickled_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match="pickled weights are refused: convert to safetensors"):
        build_encoder(model)


def test_no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"no model\.safetensors and no model\.safetensors\.index\.json"):
        build_encoder(model)


@pytest.mark.parametrize("keep", [0, 5, 60, 5000, -1])
def test_truncated_weights(keep: int, model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(ConfigurationError, match=r"model\.safetensors: is broken or truncated"):
        build_encoder(model)


def test_weights_with_a_header_that_is_too_long(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(b"\xff" * 8 + content[8:])
    with pytest.raises(ConfigurationError, match="is broken or truncated"):
        build_encoder(model)


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/other.safetensors", "a\\b.safetensors", "sub/x.safetensors", "x.bin", ""]
)
def test_shards_elsewhere(name: str, model: Path) -> None:
    (model / "model.safetensors").rename(model.parent / "other.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NAME: name}}))
    with pytest.raises(ConfigurationError, match="is not a plain file name ending in"):
        build_encoder(model)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map must map"),
        ({"weight_map": []}, "weight_map must map"),
        ({"weight_map": {NAME: 1}}, "weight_map must map"),
        ({"weight_map": {NAME: "gone.safetensors"}}, r"shard gone\.safetensors is missing"),
        ({"weight_map": {"x": "part.safetensors"}}, r"shard part\.safetensors does not hold tensor x"),
    ],
)
def test_broken_indices(index: dict[str, Any], message: str, model: Path) -> None:
    (model / "model.safetensors").rename(model / "part.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigurationError, match=message):
        build_encoder(model)


def test_a_cross_encoder_with_other_labels_than_it_says(tmp_path: Path) -> None:
    save_family(tmp_path, "bert", labels=3)
    change(tmp_path, id2label={"0": "no", "1": "yes"})
    with pytest.raises(
        ConfigurationError, match=r"classifier\.weight has the shape \[3, 32\], config\.json wants \[2,"
    ):
        build_cross_encoder(tmp_path)


def test_an_encoder_is_no_cross_encoder(model: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tensor classifier\.weight .* is missing"):
        build_cross_encoder(model)
