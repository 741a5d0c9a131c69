"""How the BERT family is laid out: each architecture's names and departures, and what config.json says of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_bake.files import Settings

# config.json's names of activations, and ours.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# MPNet's bias is shared among distances as in T5: 32 buckets, and beyond 128 tokens all are alike.
BUCKETS = 32
FARTHEST = 128


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's tensors, by our name for the part (dots for underscores) and the checkpoint's name."""

    attention_query: str = "attention.self.query"
    attention_key: str = "attention.self.key"
    attention_value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    ffn_up: str = "intermediate.dense"
    ffn_down: str = "output.dense"
    ffn_norm: str = "output.LayerNorm"


@dataclass(frozen=True, slots=True)
class Keys:
    """config.json's names for what every family has."""

    layers: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    intermediate: str = "intermediate_size"
    activation: str = "hidden_act"


@dataclass(frozen=True, slots=True)
class Head:
    """A classification head over the first token: two layers by tensor name, `{}` being the trunk's prefix."""

    dense: str
    activation: str
    output: str


@dataclass(frozen=True, slots=True)
class Family:
    """Where one model_type departs from BERT.

    eps: the layer norms', None where config.json says it. skips_pad: the pad token takes no position. pad: that token,
    None where config.json says it. relative_bias: the tensor of the bias by distance. embedding: config.json's name for
    the width of the embeddings, where it may differ from the layers'.
    """

    model_type: str
    prefix: str
    head: Head
    keys: Keys = Keys()
    layers: str = "encoder.layer.{}."
    layer: Layer = Layer()
    eps: float | None = None
    token_types: bool = True
    skips_pad: bool = False
    pad: int | None = None
    relative_bias: str | None = None
    embedding: str | None = None


_ROBERTA = Family("roberta", "roberta.", Head("classifier.dense", "tanh", "classifier.out_proj"), skips_pad=True)
FAMILIES = (
    Family("bert", "bert.", Head("{}pooler.dense", "tanh", "classifier")),
    _ROBERTA,
    replace(_ROBERTA, model_type="xlm-roberta"),
    replace(_ROBERTA, model_type="camembert"),
    Family("electra", "electra.", Head("classifier.dense", "gelu", "classifier.out_proj"), embedding="embedding_size"),
    Family(
        "distilbert",
        "distilbert.",
        Head("pre_classifier", "relu", "classifier"),
        keys=Keys("n_layers", "dim", "n_heads", "hidden_dim", "activation"),
        layers="transformer.layer.{}.",
        layer=Layer(
            *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
            *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
        ),
        eps=1e-12,
        token_types=False,
    ),
    Family(
        "mpnet",
        "mpnet.",
        Head("classifier.dense", "tanh", "classifier.out_proj"),
        layer=Layer(
            *("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "attention.LayerNorm")
        ),
        token_types=False,
        skips_pad=True,
        # transformers heeds no pad_token_id here.
        pad=1,
        relative_bias="encoder.relative_attention_bias.weight",
    ),
)
_BY_TYPE = {family.model_type: family for family in FAMILIES}


@dataclass(frozen=True, slots=True)
class BertShape:
    """What config.json says.

    activation: gelu, gelu_tanh, relu or silu. positions: the most tokens a text may have. type_vocabulary: 0 for a
    family without token types. pad_token: the token that takes no position, None where every token takes one.
    relative_bias: whether attention scores get a bias by distance.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    activation: str
    eps: float
    positions: int
    vocabulary: int
    type_vocabulary: int
    pad_token: int | None
    relative_bias: bool


def is_family(config: Mapping[str, Any]) -> bool:
    """Say whether config.json's model_type is one that this module knows.

    An ELECTRA whose embeddings are narrower than its layers, and are projected, is not.
    """
    kind = config.get("model_type")
    family = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if family is None or family.embedding is None:
        return family is not None
    return bool(config.get(family.embedding) == config.get(family.keys.hidden))


def family_shape(folder: Path) -> BertShape:
    """Read a model's shape from its config.json. Raises ConfigurationError for what cannot be built."""
    return read_shape(Settings.read(folder))


def read_shape(settings: Settings) -> BertShape:
    """Read a model's shape. Raises ConfigurationError for what cannot be built."""
    family = read_family(settings)
    keys = family.keys
    hidden, heads = settings.size(keys.hidden), settings.size(keys.heads)
    if hidden % heads:
        raise settings.error(keys.heads, f"{heads} heads do not divide the hidden size {hidden}; mend config.json")
    if family.relative_bias and settings.size("relative_attention_num_buckets", default=BUCKETS) != BUCKETS:
        raise settings.error("relative_attention_num_buckets", f"only {BUCKETS} can be built")
    vocabulary, positions = settings.size("vocab_size"), settings.size("max_position_embeddings", default=512)
    pad = None
    if family.skips_pad:
        pad = settings.size("pad_token_id", least=0, default=1) if family.pad is None else family.pad
        positions -= pad + 1
        if positions < 1 or pad >= vocabulary:
            raise settings.error("pad_token_id", f"{pad} leaves no positions or is outside the vocabulary")
    return BertShape(
        model_type=family.model_type,
        layers=settings.size(keys.layers),
        hidden=hidden,
        heads=heads,
        intermediate=settings.size(keys.intermediate),
        activation=_activation(settings, keys.activation),
        eps=settings.positive("layer_norm_eps", default=1e-12) if family.eps is None else family.eps,
        positions=positions,
        vocabulary=vocabulary,
        type_vocabulary=settings.size("type_vocab_size", default=2) if family.token_types else 0,
        pad_token=pad,
        relative_bias=family.relative_bias is not None,
    )


def read_family(settings: Settings) -> Family:
    """Find the family, and refuse what would compute something else."""
    kind = settings.values.get("model_type")
    if not is_family(settings.values):
        known = ", ".join(_BY_TYPE)
        raise settings.error(
            "model_type", f"{kind!r} is none of {known} (electra: with embeddings as wide as its layers)"
        )
    places = settings.values.get("position_embedding_type", "absolute")
    if places != "absolute":
        raise settings.error("position_embedding_type", f"{places!r} cannot be built, only 'absolute'")
    for key, problem in (
        ("is_decoder", "a decoder cannot be built; bake an encoder"),
        ("add_cross_attention", "cross-attention cannot be built; bake an encoder"),
        ("pruned_heads", "pruned heads cannot be built; bake the model before pruning"),
        ("quantization_config", "a quantized checkpoint; bake the original"),
    ):
        if settings.values.get(key):
            raise settings.error(key, problem)
    return _BY_TYPE[str(kind)]


def _activation(settings: Settings, key: str) -> str:
    name = settings.values.get(key, "gelu")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise settings.error(key, f"activation {name!r} cannot be built, only {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def read_labels(settings: Settings) -> int:
    """Return how many labels a cross-encoder has, as transformers counts them."""
    names = settings.values.get("id2label")
    return len(names) if isinstance(names, dict) and names else settings.size("num_labels", default=2)
