"""The systems that are compared, and what was chosen for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class System:
    """One system.

    environment: a file of requirements/, whose installed size is told; the system runs in it, but ours in the project's
    own environment. model: a name of models.py. adapter: a module of adapters/, and options for it. packages: those
    whose versions are told. choices: what was done so that it shows its best, for the documentation.
    """

    name: str
    title: str
    environment: str
    model: str
    adapter: str
    choices: str
    packages: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False


_SAME_GRAPH = "the same int8 graph as `onnxruntime-int8`"

SYSTEMS = (
    System(
        name="embakery-native",
        title="Embakery, engine native",
        environment="embakery",
        model="artifact",
        adapter="ours",
        choices="nothing to choose: it sorts, packs and spreads over threads by itself",
        packages=("numpy", "tokenizers"),
        options={"engine": "native"},
        is_ours=True,
    ),
    System(
        name="embakery-onnx",
        title="Embakery, engine onnx",
        environment="embakery",
        model="artifact",
        adapter="ours",
        choices="nothing to choose: it sorts, groups and spreads over threads by itself",
        packages=("numpy", "onnxruntime", "tokenizers"),
        options={"engine": "onnx"},
        is_ours=True,
    ),
    System(
        name="onnxruntime-int8",
        title="onnxruntime int8, dynamic",
        environment="onnxruntime",
        model="onnx-int8",
        adapter="onnxruntime",
        choices="fused for BERT, a scale for each output channel; sorted by tokens; batch size and one session on all "
        "threads or one thread for each of several batches",
        packages=("onnxruntime", "numpy", "tokenizers"),
    ),
    System(
        name="openvino-int8",
        title="OpenVINO int8, calibrated (NNCF)",
        environment="openvino",
        model="openvino-int8",
        adapter="openvino",
        choices="calibrated on the project's passages, for transformers; sorted by tokens; batch size, latency hint or "
        "throughput hint with streams, fp32 or the CPU's own precision between the layers",
        packages=("openvino", "numpy", "tokenizers"),
    ),
    System(
        name="openvino-int8-weights",
        title="OpenVINO 8-bit weights (NNCF)",
        environment="openvino",
        model="openvino-int8-weights",
        adapter="openvino",
        choices="activations quantized on the fly in groups of 32, its default; the rest as `openvino-int8`",
        packages=("openvino", "numpy", "tokenizers"),
        options={"DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"},
    ),
    System(
        name="ctranslate2-int8",
        title="CTranslate2 int8",
        environment="ctranslate2",
        model="ctranslate2-int8",
        adapter="ctranslate2",
        choices="sorted by tokens; batch size and one worker on all threads or several on one each",
        packages=("ctranslate2", "numpy", "tokenizers"),
        options={"compute_type": "int8"},
    ),
    System(
        name="fastembed-int8",
        title="fastembed int8",
        environment="fastembed",
        model="onnx-int8",
        adapter="fastembed",
        choices=f"{_SAME_GRAPH}; texts handed over longest first, which it does not do; batch size",
        packages=("fastembed", "onnxruntime", "tokenizers"),
    ),
    System(
        name="light-embed-int8",
        title="light-embed int8",
        environment="light-embed",
        model="onnx-int8",
        adapter="light_embed",
        choices=f"{_SAME_GRAPH}; it sorts by itself; batch size; its threads cannot be set, so it may take all "
        "cores where --threads asks for fewer",
        packages=("light-embed", "onnxruntime", "tokenizers"),
    ),
    System(
        name="sentence-transformers-onnx-int8",
        title="sentence-transformers onnx int8",
        environment="sentence-transformers-onnx",
        model="onnx-int8",
        adapter="sentence_transformers",
        choices=f"{_SAME_GRAPH}; it sorts by itself; batch size",
        packages=("sentence-transformers", "onnxruntime", "torch", "tokenizers"),
        options={"backend": "onnx"},
    ),
    System(
        name="sentence-transformers-fp32",
        title="sentence-transformers torch fp32",
        environment="sentence-transformers",
        model="original",
        adapter="sentence_transformers",
        choices="it sorts by itself; batch size",
        packages=("sentence-transformers", "torch", "transformers", "tokenizers"),
        options={"backend": "torch"},
    ),
)
