"""From a SentenceTransformer to an fp32 ONNX graph, through optimum."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import onnx

from embakery.errors import ConfigurationError
from model_bake.source import ModelSource

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# LayerNormalization is one operator from 17 on; ReduceMean and ReduceMax keep their axes as attributes up to 17.
OPSET = 17


def load_model(source: ModelSource) -> SentenceTransformer:
    """Load the original on the CPU in fp32. Remote code stays off and pickled weights are refused."""
    from sentence_transformers import SentenceTransformer

    try:
        model: SentenceTransformer = SentenceTransformer(
            source.load_from,
            device="cpu",
            trust_remote_code=False,
            # eager attention: plain MatMul and Softmax, which every exporter and onnxruntime understand.
            model_kwargs={"attn_implementation": "eager", "use_safetensors": True, "dtype": "float32"},
        )
        return model
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(f"{source.model_id}: sentence-transformers cannot load it: {error}") from error


def export_transformer(model: SentenceTransformer) -> onnx.ModelProto:
    """Export the transformer, without pooling: input_ids, attention_mask[, token_type_ids] -> last_hidden_state."""
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager

    transformer: Any = model[0]
    network = transformer.auto_model.eval()
    kind = network.config.model_type
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            "onnx", network, task="feature-extraction", library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"architecture {kind}: optimum has no ONNX export for it") from error
    with TemporaryDirectory(prefix="embakery-export-") as folder, warnings.catch_warnings():
        # Tracing warns of every shape it fixes; the comparison with the original in `certify` is what decides.
        warnings.simplefilter("ignore")
        logging.getLogger("optimum").setLevel(logging.ERROR)
        path = Path(folder) / "transformer.onnx"
        export(model=network, config=constructor(network.config), output=path, opset=OPSET)
        return onnx.load(path)
