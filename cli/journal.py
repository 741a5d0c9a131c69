"""What has been sent, on disk: a run that ended half-way goes on from here.

A file of JSON lines: a header that says which run it belongs to, then one line for each answer of SQS, synced before
the next batch goes out, then one line when all is done. Each line holds the whole state, so the last one that is whole
counts, and one that was torn when the machine stopped is cut off. Lines hold counts and digests, never a text.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from embakery.errors import ConfigurationError, InvalidRequestError

_SCHEMA = 1
_MARK = "embakery_enqueue"


@dataclass(frozen=True, slots=True)
class Run:
    """What a journal belongs to.

    target: queue, destination and what else says what is sent where. options: how it is packed. inputs: from what.
    """

    target: Mapping[str, Any]
    options: Mapping[str, Any]
    inputs: list[dict[str, Any]]

    def header(self) -> dict[str, Any]:
        """Return the first line."""
        return {
            _MARK: _SCHEMA,
            "target": dict(self.target),
            "options": dict(self.options),
            "inputs": self.inputs,
        }

    def default_path(self, env: Mapping[str, str]) -> Path:
        """Name the file that this target and these inputs, whatever their content, always have."""
        state = env.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        identity = json.dumps([dict(self.target), [entry["path"] for entry in self.inputs]], sort_keys=True)
        return Path(state, "embakery", "enqueue", f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.jsonl")


@dataclass(slots=True)
class State:
    """How far a run is.

    to: messages before this position have been dealt with, but for those in `left`. digest: of the messages up to
    there. The counts are of what SQS took.
    """

    to: int = 0
    left: set[int] = field(default_factory=set)
    digest: str = ""
    documents: int = 0
    messages: int = 0
    done: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a line."""
        line: dict[str, Any] = {
            "to": self.to,
            "digest": self.digest,
            "documents": self.documents,
            "messages": self.messages,
        }
        return line | ({"left": sorted(self.left)} if self.left else {}) | ({"done": True} if self.done else {})

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> State:
        """Read a line."""
        return cls(
            to=line["to"],
            left=set(line.get("left", ())),
            digest=line["digest"],
            documents=line["documents"],
            messages=line["messages"],
            done=line.get("done", False),
        )


class Journal:
    """A run's file, held by one process at a time."""

    def __init__(self, path: Path, file: BinaryIO, state: State) -> None:
        """Take an open file; see `open`."""
        self.path = path
        self.state = state
        self._file = file

    @classmethod
    def open(cls, path: Path, run: Run, *, again: bool) -> Self:
        """Open a run's journal, or start it; `again` starts it anew.

        Raises ConfigurationError for a file that is no journal or held by another process, InvalidRequestError if it
        belongs to a run that did not end and was not this one.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise ConfigurationError(f"{path}: the journal cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header, state, end = _read(path, file)
            if state.done and header != run.header():
                again = True
            if header is None or again:
                header, state, end = run.header(), State(), 0
            _check(path, header, run.header())
            file.truncate(end)
            file.seek(end)
            journal = cls(path, file, state)
            if end == 0:
                journal._write(header)
                _sync_folder(path.parent)
        except BlockingIOError:
            file.close()
            raise ConfigurationError(f"{path}: another enqueue is at work on this journal") from None
        except BaseException:
            file.close()
            raise
        return journal

    def record(self) -> None:
        """Write the state down, for good. Raises ConfigurationError if the disk does not take it."""
        self._write(self.state.to_json())

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, and let others have it."""
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ConfigurationError(f"{self.path}: the journal cannot be written: {error.strerror}") from error


def _read(path: Path, file: BinaryIO) -> tuple[dict[str, Any] | None, State, int]:
    """Return header, last state, and where the last whole line ends. A file without a whole line is a new one."""
    header, state, end = None, State(), 0
    first = True
    torn = False
    for line in file:
        if torn:
            raise ConfigurationError(
                f"{path}: is damaged after {end} bytes; start over with --again and another --journal"
            )
        value = _parse(line)
        if first and not (isinstance(value, dict) and value.get(_MARK) == _SCHEMA):
            # Torn while its first line was written: ours all the same.
            if not line.endswith(b"\n") and line.startswith(f'{{"{_MARK}"'.encode()[: len(line)]):
                return None, State(), 0
            raise ConfigurationError(f"{path}: is not a journal of this version's enqueue; it is left as it is")
        if value is None:
            # Torn, or zeroed, by the end of the machine: whatever was written here was not acknowledged to us.
            torn = True
            continue
        header, state = (value, state) if first else (header, State.from_json(value))
        first = False
        end += len(line)
    return header, state, end


def _parse(line: bytes) -> Any:
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _check(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    differs = list(_differences(found, expected))
    if differs:
        raise InvalidRequestError(
            "",
            f"the run that did not end differs in: {', '.join(differs)}; go on with what it had, "
            f"or start over with --again, which may send documents twice (journal: {path})",
        )


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterable[str]:
    for part in ("target", "options"):
        for name in sorted({*found[part], *expected[part]}):
            if found[part].get(name) != expected[part].get(name):
                yield name
    before = {entry["path"]: entry for entry in found["inputs"]}
    for entry in expected["inputs"]:
        if before.get(entry["path"]) != entry:
            yield f"{entry['path']} (changed)" if entry["path"] in before else entry["path"]
    if [entry["path"] for entry in found["inputs"]] != [entry["path"] for entry in expected["inputs"]]:
        yield "the list of inputs"


def _sync_folder(folder: Path) -> None:
    """Make a new file's name last, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
