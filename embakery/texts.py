"""From text to token ids: checks, prompts, truncation. No padding, ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tokenizers import Encoding, Tokenizer

from embakery.errors import InvalidRequestError, RequestTooLargeError

TokenIds = tuple[int, ...]
Truncate = Literal["NONE", "START", "END"]

INPUT_TYPES = ("document", "query")


@dataclass(frozen=True, slots=True)
class TextLimits:
    """Bounds on one text, in characters. Tokens are bounded by the truncation policy."""

    max_characters: int = 200_000


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as the encoder sees it.

    ids: final token ids, special tokens included. special: which of them are special tokens.
    truncated: whether tokens were cut off to fit the model.
    """

    ids: TokenIds
    special: tuple[bool, ...]
    truncated: bool


def check_text(text: object, *, limits: TextLimits) -> str:
    """Return `text` if it can be embedded. Raises InvalidRequestError, with an empty field, saying why not."""
    if not isinstance(text, str):
        raise InvalidRequestError("", f"must be a string, not {json_type(text)}")
    if len(text) > limits.max_characters:
        raise RequestTooLargeError("", f"{len(text)} characters, the limit is {limits.max_characters}")
    if not text.strip():
        raise InvalidRequestError("", "must not be empty or blank")
    if "\0" in text:
        raise InvalidRequestError("", "must not contain the NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError("", "must not contain lone surrogates (it is not valid Unicode)") from None
    return text


def json_type(value: object) -> str:
    """Return JSON's name for the type of a parsed value."""
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


class TextTokenizer:
    """A model's tokenizer with its prompts and length limit.

    prompts: text put before the input, by input type; an absent type gets none.
    """

    def __init__(self, path: Path, *, max_tokens: int, prompts: Mapping[str, str]) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = max_tokens
        self._room = max_tokens - self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._prompts = dict(prompts)
        self._alone: dict[str, Encoding] = {}

    def tokenize(
        self, texts: Sequence[str], *, input_type: str, truncate: Truncate = "END"
    ) -> list[TokenizedText | InvalidRequestError]:
        """Tokenize texts that `check_text` let pass.

        A text that yields no tokens of its own, or is too long under `truncate="NONE"`, gives an error in its place.
        """
        check_truncate(truncate)
        if input_type not in INPUT_TYPES:
            raise InvalidRequestError("input_type", f"must be {' or '.join(INPUT_TYPES)}")
        prompt = self._prompts.get(input_type, "")
        nothing = self._prompt_alone(prompt)
        encodings = self._encode([prompt + text for text in texts])
        empty = nothing.ids
        return [
            InvalidRequestError("", "holds nothing that the model's tokenizer knows")
            if len(encoding) == len(empty) and encoding.ids == empty
            else self._finish(encoding, nothing, truncate)
            for encoding in encodings
        ]

    def _prompt_alone(self, prompt: str) -> Encoding:
        """A text that adds nothing to the prompt must not be answered with the prompt's vector."""
        if prompt not in self._alone:
            self._alone[prompt] = self._tokenizer.encode(prompt, add_special_tokens=False)
        return self._alone[prompt]

    def _encode(self, batch: Sequence[str]) -> Sequence[Encoding]:
        # One text does not wake the tokenizer's threads: they would take the core that is to help encode it.
        if len(batch) == 1:
            return [self._tokenizer.encode(batch[0], add_special_tokens=False)]
        return self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)  # type: ignore[no-any-return]

    def _finish(self, encoding: Encoding, nothing: Encoding, truncate: Truncate) -> TokenizedText | InvalidRequestError:
        length = len(encoding)
        if length > self._room:
            if truncate == "NONE":
                total = length + self._max_tokens - self._room
                return RequestTooLargeError("", f"{total} tokens, the model takes {self._max_tokens}")
            encoding = _cut(encoding, nothing, self._room, truncate)
        final = self._tokenizer.post_process(encoding, None, add_special_tokens=True)
        special = tuple(map(bool, final.special_tokens_mask))
        return TokenizedText(tuple(final.ids), special, truncated=length > self._room)


def _cut(encoding: Encoding, prompt: Encoding, room: int, truncate: Truncate) -> Encoding:
    """Cut to `room` tokens. At the start it is the text that is cut: without its prompt it would be another input."""
    if truncate == "END":
        encoding.truncate(room, direction="right")
        return encoding
    left = room - len(prompt.ids)
    encoding.truncate(left if left > 0 else room, direction="left")
    return Encoding.merge([prompt, encoding], growing_offsets=True) if left > 0 else encoding


def check_truncate(value: object) -> Truncate:
    """Return a truncation policy. Raises InvalidRequestError."""
    for policy in get_args(Truncate):
        if value == policy:
            return policy  # type: ignore[no-any-return]
    raise InvalidRequestError("truncate", "must be NONE, START or END")
