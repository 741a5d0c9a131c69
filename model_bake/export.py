"""Any architecture that optimum can export: from the original, in torch, to an fp32 ONNX graph.

The only room where torch lives. BERT-family models do not come here (see bert_family.py), unless they are asked to.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from embakery.errors import ConfigurationError
from embakery.vectors import Vectors
from model_bake.bert_family import LOGITS, TOKENS
from model_bake.nodes import OPSET, fill_in_input
from model_bake.source import ModelSource
from model_bake.spec import CrossEncoderSpec, Spec

_MASK = "attention_mask"
_INPUTS = {"input_ids", "token_type_ids", _MASK}
# eager attention: plain MatMul and Softmax, which every exporter and onnxruntime understand.
_MODEL_OPTIONS = {"attn_implementation": "eager", "use_safetensors": True, "dtype": "float32"}


class Original:
    """The original model in torch, on the CPU, in fp32. Remote code stays off and pickled weights are refused."""

    def __init__(self, source: ModelSource, spec: Spec) -> None:
        self._spec = spec
        self._model: Any = _load(source, spec)

    def export(self) -> onnx.ModelProto:
        """Export the transformer: input_ids[, token_type_ids] -> token_embeddings, or logits of a cross-encoder."""
        is_cross_encoder = isinstance(self._spec, CrossEncoderSpec)
        network = self._model[0].auto_model.eval()
        exported = _export(network, "text-classification" if is_cross_encoder else "feature-extraction")
        _check_inputs(exported.graph)
        _gather_constants(exported.graph)
        # Texts are never padded. Not removed: some architectures (ModernBERT) join the mask with one of their own.
        fill_in_input(exported.graph, _MASK, 1)
        _rename(exported.graph, exported.graph.output[0].name, LOGITS if is_cross_encoder else TOKENS)
        _forget_circumstances(exported)
        return exported

    def vectors(self, texts: Sequence[str], *, prompt: str) -> Vectors:
        """Return an encoder's own vectors, whole even where the model would cut them, float32 (n, dim)."""
        self._model.max_seq_length = self._spec.max_tokens
        self._model.truncate_dim = None
        return np.asarray(self._model.encode(list(texts), prompt=prompt, show_progress_bar=False), dtype=np.float32)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        """Return a cross-encoder's own scores, float32 (n, labels)."""
        scores = np.asarray(self._model.predict(list(pairs), show_progress_bar=False), dtype=np.float32)
        return scores.reshape(len(pairs), -1)


def _load(source: ModelSource, spec: Spec) -> Any:
    try:
        from sentence_transformers import CrossEncoder, SentenceTransformer
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"architecture {spec.architecture}: its export needs torch and optimum: pip install -e '.[bake-any]'"
        ) from error
    kind = CrossEncoder if isinstance(spec, CrossEncoderSpec) else SentenceTransformer
    try:
        return kind(str(source.folder), device="cpu", trust_remote_code=False, model_kwargs=dict(_MODEL_OPTIONS))
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ConfigurationError(f"{source.model_id}: sentence-transformers cannot load it: {error}") from error


def _export(network: Any, task: str) -> onnx.ModelProto:
    kind = network.config.model_type
    with TemporaryDirectory(prefix="embakery-export-") as folder, warnings.catch_warnings():
        # Tracing warns of every shape it fixes; the comparison with the original is what decides.
        warnings.simplefilter("ignore")
        logging.getLogger("optimum").setLevel(logging.ERROR)
        from optimum.exporters.onnx import export
        from optimum.exporters.tasks import TasksManager

        try:
            constructor = TasksManager.get_exporter_config_constructor(
                "onnx", network, task=task, library_name="transformers"
            )
        except (KeyError, ValueError) as error:
            raise ConfigurationError(f"architecture {kind}: optimum has no ONNX export of it for {task}") from error
        path = Path(folder) / "transformer.onnx"
        export(model=network, config=constructor(network.config, task=task), output=path, opset=OPSET)
        return onnx.load(path)


def _check_inputs(graph: onnx.GraphProto) -> None:
    unknown = {value.name for value in graph.input} - _INPUTS
    if unknown:
        raise ConfigurationError(f"the exported graph wants {sorted(unknown)[0]}, which this bake does not know")


def _gather_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers: what quantizes knows a constant by that."""
    kept = []
    for node in graph.node:
        values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if node.op_type != "Constant" or not values:
            kept.append(node)
            continue
        tensor = graph.initializer.add()
        tensor.CopyFrom(values[0])
        tensor.name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for names in (names for each in graph.node for names in (each.input, each.output)):
        for position, name in enumerate(names):
            if name == old:
                names[position] = new
    (output,) = (value for value in graph.output if value.name == old)
    del graph.output[:]
    graph.output.add().CopyFrom(output)
    graph.output[0].name = new


def _forget_circumstances(model: onnx.ModelProto) -> None:
    """Nothing of the machine, the day or a library's version may enter the digest."""
    model.producer_name, model.producer_version, model.doc_string = "embakery", "", ""
    for each in model.graph.node:
        each.doc_string = ""
    del model.metadata_props[:]
