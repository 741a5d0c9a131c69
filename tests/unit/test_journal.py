"""The journal: what is whole counts, what is torn is cut off, what belongs to another run is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli.journal import Journal, Run
from embakery.errors import ConfigurationError, InvalidRequestError

RUN = Run({"queue-url": "q", "destination": "d"}, {"format": None}, [{"path": "/a", "size": 1, "mtime_ns": 2}])


def advance(path: Path, *steps: int, left: frozenset[int] = frozenset(), done: bool = False) -> bytes:
    with Journal.open(path, RUN, again=False) as journal:
        for to in steps:
            journal.state.to, journal.state.digest, journal.state.left = to, f"digest {to}", set(left)
            journal.state.documents += 10
            journal.record()
        if done:
            journal.state.done = True
            journal.record()
    return path.read_bytes()


def test_it_goes_on_from_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal"
    advance(path, 10, 20, left=frozenset({13}))
    with Journal.open(path, RUN, again=False) as journal:
        assert (journal.state.to, journal.state.digest, journal.state.left) == (20, "digest 20", {13})
        assert (journal.state.documents, journal.state.done) == (20, False)
    with Journal.open(path, RUN, again=True) as journal:
        assert (journal.state.to, journal.state.documents) == (0, 0)


def test_wherever_it_was_torn_the_whole_records_count(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = advance(path, 10, 20, 30)
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole)):
        for tail in (b"", b"\0" * 7):
            path.write_bytes(whole[:length] + (tail if length > 1 else b""))
            if length < ends[0] and tail:
                continue
            with Journal.open(path, RUN, again=False) as journal:
                assert journal.state.to == 10 * max(0, sum(end <= length for end in ends) - 1)
            assert (
                path.read_bytes() == whole[: max((end for end in ends if end <= length), default=0)] or length < ends[0]
            )
    assert advance(path, 99).endswith(b"}\n")


def test_damage_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = advance(path, 10, 20, 30)
    path.write_bytes(whole.replace(b'{"to": 20', b'{"to: 20'))
    with pytest.raises(ConfigurationError, match="is damaged after"):
        Journal.open(path, RUN, again=False)


@pytest.mark.parametrize("content", [b"id,text\n1,2\n", b'{"id": "a", "text": "b"}\n', b"no line end", b'{"embakery_'])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data"
    path.write_bytes(content)
    if content == b'{"embakery_':
        Journal.open(path, RUN, again=False).__exit__(None, None, None)
        return
    for again in (False, True):
        with pytest.raises(ConfigurationError, match="is not a journal"):
            Journal.open(path, RUN, again=again)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(RUN, target={"queue-url": "q", "destination": "x"}), "destination"),
        (replace(RUN, options={"format": "csv"}), "format"),
        (replace(RUN, inputs=[{"path": "/a", "size": 2, "mtime_ns": 2}]), "/a (changed)"),
        (replace(RUN, inputs=[*RUN.inputs, {"path": "/b"}]), "/b, the list of inputs"),
        (replace(RUN, inputs=[]), "the list of inputs"),
    ],
)
def test_another_run_does_not_go_on_with_it(tmp_path: Path, other: Run, named: str) -> None:
    path = tmp_path / "journal"
    before = advance(path, 10)
    with pytest.raises(InvalidRequestError) as caught:
        Journal.open(path, other, again=False)
    assert f"differs in: {named};" in str(caught.value)
    assert path.read_bytes() == before
    # Once it is done another run may have the file.
    advance(path, done=True)
    with Journal.open(path, other, again=False) as journal:
        assert (journal.state.to, journal.state.done) == (0, False)
    assert json.loads(path.read_text()) == other.header()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal.open(path, RUN, again=False), pytest.raises(ConfigurationError, match="another enqueue is at work"):
        Journal.open(path, RUN, again=False)
    Journal.open(path, RUN, again=False).__exit__(None, None, None)


def test_the_usual_place_is_that_of_target_and_paths(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    path = RUN.default_path(env)
    assert path.parent == tmp_path / "embakery" / "enqueue"
    changed = replace(RUN, options={"format": "csv"}, inputs=[{"path": "/a", "size": 9}])
    assert changed.default_path(env) == path
    assert replace(RUN, target={"queue-url": "other"}).default_path(env) != path
    assert RUN.default_path({}).is_relative_to(Path.home() / ".local" / "state")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="the journal cannot be opened"):
        Journal.open(tmp_path / "file" / "journal", RUN, again=False)
