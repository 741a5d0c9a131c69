"""The modules of a SentenceTransformer, as modules.json lists them, and what stands after the pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embakery.errors import ConfigurationError
from model_bake.files import read_json, read_json_objects
from model_bake.weights import Floats, open_checkpoint

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
DENSE_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")

_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_STATIC_TABLES = ("embedding.weight", "embeddings")


@dataclass(frozen=True, slots=True)
class Module:
    """A module's class and its folder."""

    kind: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Dense:
    """y = activation(W x + b) on a sentence vector. weight float32 (out, in), bias float32 (out,) or none."""

    weight: Floats
    bias: Floats | None
    activation: str


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalization of a sentence vector. gain and bias float32 (dim,)."""

    gain: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Normalize:
    """Scale a sentence vector to length 1."""


HeadStep = Dense | LayerNorm | Normalize


@dataclass(frozen=True, slots=True)
class Pipeline:
    """first: Transformer or StaticEmbedding. pooling: one or more modes, joined. dimension: of whole vectors.

    pools_prompt: whether the prompt's tokens take part in the pooling.
    """

    first: Module
    pooling: tuple[str, ...]
    pools_prompt: bool
    head: tuple[HeadStep, ...]
    dimension: int


def read_modules(folder: Path) -> list[Module]:
    """Read modules.json; a bare transformer is a pipeline of one. Raises ConfigurationError."""
    path = folder / "modules.json"
    if not path.exists():
        return [Module("Transformer", folder)]
    modules = [
        _module(folder, str(entry.get("type", "")), str(entry.get("path", ""))) for entry in read_json_objects(path)
    ]
    if not modules or modules[0].kind not in {"Transformer", "StaticEmbedding"}:
        raise ConfigurationError(f"modules {_names(modules)}: must begin with Transformer or StaticEmbedding")
    return modules


def read_pipeline(modules: Sequence[Module], token_dimension: int) -> Pipeline:
    """Read what follows the first module. A transformer without a pooling gets the mean, as the original does."""
    first, rest = modules[0], list(modules[1:])
    modes: tuple[str, ...] = ("mean",)
    pools_prompt = True
    if first.kind == "Transformer" and rest:
        if rest[0].kind != "Pooling":
            raise ConfigurationError(f"modules {_names(modules)}: only Pooling can follow the Transformer")
        modes, pools_prompt = _pooling(rest.pop(0), token_dimension)
    dimension = token_dimension * len(modes)
    head: list[HeadStep] = []
    for module in rest:
        step = _head_step(module, dimension, modules)
        dimension = step.weight.shape[0] if isinstance(step, Dense) else dimension
        head.append(step)
    return Pipeline(first, modes, pools_prompt, tuple(head), dimension)


def read_static_table(folder: Path) -> Floats:
    """Read a static model's table, float32 (tokens, dim). Raises ConfigurationError."""
    checkpoint = open_checkpoint(folder)
    for name in _STATIC_TABLES:
        if name in checkpoint.tensors and len(checkpoint.tensors[name].shape) == 2:
            checkpoint.check(name, checkpoint.tensors[name].shape)
            return checkpoint.read(name)
    raise ConfigurationError(f"StaticEmbedding: its weights hold no table called {' or '.join(_STATIC_TABLES)}")


def _module(folder: Path, kind: str, place: str) -> Module:
    if not kind.startswith("sentence_transformers."):
        raise ConfigurationError(f"module {kind}: code that comes with a model is never run, so it cannot be baked")
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise ConfigurationError("modules.json: a module's path leads out of the model's folder")
    return Module(kind.rpartition(".")[2], folder / place)


def _names(modules: Sequence[Module]) -> str:
    return " -> ".join(module.kind for module in modules) or "(none)"


def _pooling(module: Module, size: int) -> tuple[tuple[str, ...], bool]:
    config = read_json(module.folder / "config.json")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _LEGACY_POOLINGS.items() if config.get(key)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise ConfigurationError(f"pooling {unknown[0]}: only {', '.join(POOLINGS)} can be baked")
    claimed = config.get("embedding_dimension", config.get("word_embedding_dimension", size))
    if claimed != size:
        raise ConfigurationError(f"pooling: made for token vectors of {claimed}, the model's have {size}")
    return modes, bool(config.get("include_prompt", True))


def _head_step(module: Module, size: int, modules: Sequence[Module]) -> HeadStep:
    if module.kind == "Normalize":
        return Normalize()
    if module.kind == "Dense":
        return _dense(module, size)
    if module.kind == "LayerNorm":
        return LayerNorm(
            gain=_tensor(module.folder, "norm.weight", (size,)), bias=_tensor(module.folder, "norm.bias", (size,))
        )
    raise ConfigurationError(
        f"modules {_names(modules)}: {module.kind} cannot be baked; after the pooling only Dense, LayerNorm and "
        "Normalize can"
    )


def _dense(module: Module, size: int) -> Dense:
    config = read_json(module.folder / "config.json")
    if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ConfigurationError(f"module Dense on {config['module_input_name']}: only on sentence vectors")
    # A function that is not torch's own would be the model's own code: the original takes Tanh instead, so does this.
    path = str(config.get("activation_function", ""))
    activation = path.rpartition(".")[2] if path.startswith("torch.") else "Tanh"
    if activation not in DENSE_ACTIVATIONS:
        raise ConfigurationError(f"module Dense with {activation}: only {', '.join(DENSE_ACTIVATIONS)} can be baked")
    out = config.get("out_features")
    if not isinstance(out, int):
        raise ConfigurationError("module Dense: its config.json has no out_features")
    bias = _tensor(module.folder, "linear.bias", (out,)) if config.get("bias", True) else None
    weight = _tensor(module.folder, "linear.weight", (out, size))
    return Dense(weight=weight, bias=bias, activation=activation)


def _tensor(folder: Path, name: str, shape: tuple[int, ...]) -> Floats:
    checkpoint = open_checkpoint(folder)
    checkpoint.check(name, shape)
    return checkpoint.read(name)
