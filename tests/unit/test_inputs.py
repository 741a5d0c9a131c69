"""What `embakery enqueue` reads: every format's rows, and every way in which one can be wrong."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.inputs.checking import Checked, Checker, Seen
from cli.inputs.reading import Inputs
from cli.inputs.rows import MAX_LINE_BYTES, BadRow, Columns, Row
from embakery.errors import ConfigurationError, InvalidRequestError
from embakery.messages import EmbedMessage, parse_message
from embakery.texts import TextLimits
from storage import claim_check


def read(tmp_path: Path, name: str, content: bytes | str, **more: Any) -> list[Row | BadRow]:
    """Read a file; where a row came from is said without the folder."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = list(Inputs((str(path),), **more).rows())
    return [_without(row, f"{tmp_path}/") for row in found]


def _without(row: Row | BadRow, folder: str) -> Row | BadRow:
    where = row.where.removeprefix(folder)
    return BadRow(where, row.problem) if isinstance(row, BadRow) else Row(where, row.value, row.unsent)


def check(*values: object, plain: bool = True, limits: TextLimits | None = None) -> list[Checked | BadRow]:
    return list(Checker(limits or TextLimits(), plain=plain).check(Row(f"f:{n}", v) for n, v in enumerate(values)))


def test_json_lines(tmp_path: Path) -> None:
    content = (
        '\ufeff{"id": "a", "text": "ä"}\r\n\n[1]\n{"id": NaN}\n{"id": "b"\n{"id":"b","text":"t","version":2,"x":1}'
    )
    assert read(tmp_path, "a.jsonl", content) == [
        Row("a.jsonl:1", {"id": "a", "text": "ä"}),
        BadRow("a.jsonl:3", "must be a JSON object"),
        BadRow("a.jsonl:4", "is not valid JSON"),
        BadRow("a.jsonl:5", "is not valid JSON"),
        Row("a.jsonl:6", {"id": "b", "text": "t", "version": 2}, ("x",)),
    ]
    assert read(tmp_path, "deep.jsonl", "[" * 100_000) == [BadRow("deep.jsonl:1", "is nested too deeply")]
    assert read(tmp_path, "bytes.jsonl", b'{"id": "\xff"}') == [BadRow("bytes.jsonl:1", "is not valid JSON")]


def test_json_lines_with_other_names(tmp_path: Path) -> None:
    columns = Columns(id="_id", text="body", metadata=False)
    line = '{"_id": "a", "body": "b", "id": "c", "metadata": {"d": 1}}'
    (row,) = read(tmp_path, "a.json", line, columns=columns)
    assert row == Row("a.json:1", {"id": "a", "text": "b"}, ("id", "metadata"))


def test_a_line_without_end_is_skipped_and_not_held(tmp_path: Path) -> None:
    long = b"x" * (3 * MAX_LINE_BYTES)
    assert read(tmp_path, "a.jsonl", long + b'\n{"id": "a", "text": "b"}\n' + long) == [
        BadRow("a.jsonl:1", "is longer than 8388608 bytes"),
        Row("a.jsonl:2", {"id": "a", "text": "b"}),
        BadRow("a.jsonl:3", "is longer than 8388608 bytes"),
    ]
    assert claim_check.MAX_LINE_BYTES == MAX_LINE_BYTES


def test_csv(tmp_path: Path) -> None:
    content = '\ufeffid,text,version,lang\r\n1,"a, ""b""\r\nc",2,en\r\n\r\n2,d,,\r\n3,e\r\n4,f,1.5,de\r\n'
    assert read(tmp_path, "a.csv", content) == [
        Row("a.csv:2", {"id": "1", "text": 'a, "b"\nc', "version": 2, "metadata": {"lang": "en"}}),
        Row("a.csv:5", {"id": "2", "text": "d", "metadata": {"lang": ""}}),
        BadRow("a.csv:6", "has 2 columns, the header has 4"),
        BadRow("a.csv:7", "version: must be a whole number"),
    ]
    columns = Columns(id="key", text="words", metadata=False)
    assert read(tmp_path, "a.tsv", "key\twords\tx\na,b\tc\td\n", columns=columns) == [
        Row("a.tsv:2", {"id": "a,b", "text": "c"})
    ]


def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", "a,b\n1,2\n") == [BadRow("a.csv:1", "has no column id and no column text")]
    assert read(tmp_path, "a.csv", "id,text,x,x\n1,2,3,4\n") == [BadRow("a.csv:1", "has two columns of one name")]
    assert read(tmp_path, "a.csv", "") == [BadRow("a.csv:1", "has no column id and no column text")]
    endless = 'id,text\n1,a\n2,"' + "b\n" * (MAX_LINE_BYTES // 2 + 1)
    good, bad = read(tmp_path, "a.csv", endless)
    assert good == Row("a.csv:2", {"id": "1", "text": "a"})
    assert isinstance(bad, BadRow)
    assert bad.problem.endswith("; the rest of the file was not read")
    (latin,) = read(tmp_path, "a.csv", b"id,text\n1,caf\xe9\n")
    (checked,) = Checker(TextLimits()).check([latin])
    assert checked == BadRow("a.csv:2", "text: must not contain lone surrogates (it is not valid Unicode)")


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [1, 2],
            "text": ["a", None],
            "version": [3, None],
            "when": [datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), None],
            "price": [decimal.Decimal("1.50"), None],
            "score": [float("nan"), 0.5],
            "tags": [["x"], []],
            "raw": [b"\x00", None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    inputs = Inputs((str(tmp_path / "a.parquet"),))
    first, second = inputs.rows()
    metadata = {"when": "2026-01-02T00:00:00+00:00", "price": "1.50", "score": None, "tags": ["x"], "raw": "AA=="}
    expected = {"id": "1", "text": "a", "version": 3, "metadata": metadata}
    assert first == Row(f"{tmp_path}/a.parquet:1", expected)
    assert list(Checker(TextLimits()).check([second])) == [
        BadRow(f"{tmp_path}/a.parquet:2", "text: must be a string, not null")
    ]
    assert inputs.total() == 2
    (row,) = Inputs(inputs.names, columns=Columns(text="absent")).rows()
    assert row == BadRow(f"{tmp_path}/a.parquet", "has no column absent")


def test_parquet_that_is_none(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "a.parquet", b"no parquet at all")
    assert row == BadRow("a.parquet", "is not readable Parquet (ArrowInvalid); the rest was not read")
    pq.write_table(pa.table({"id": ["a"] * 5000, "text": [str(n) for n in range(5000)]}), tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    rows = read(tmp_path, "b.parquet", whole[:20] + b"\xff" * 9000 + whole[9020:])
    assert isinstance(rows[-1], BadRow)


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'embakery\[parquet\]'"):
        read(tmp_path, "a.parquet", b"")


def test_folders_and_text_files(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name, content in [
        ("c.txt", b"\xef\xbb\xbfsea"),
        ("b/a.md", b"bee\n"),
        ("b/bad.TXT", b"\xff"),
        ("d.pdf", b"%PDF"),
        (".hidden.txt", b"x"),
        (".git/x.txt", b"x"),
    ]:
        (folder / name).write_bytes(content)
    assert list(Inputs((str(folder),)).rows()) == [
        Row(f"{folder}/c.txt", {"id": "c.txt", "text": "sea"}),
        Row(f"{folder}/b/a.md", {"id": "b/a.md", "text": "bee\n"}),
        BadRow(f"{folder}/b/bad.TXT", "is not UTF-8"),
    ]
    (row,) = Inputs((str(folder / "c.txt"),)).rows()
    assert row == Row(f"{folder}/c.txt", {"id": f"{folder}/c.txt", "text": "sea"})


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InvalidRequestError, match="cannot be read: Permission denied"):
        list(Inputs((str(tmp_path),)).rows())


def test_what_cannot_be_opened_and_what_identifies_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="nowhere: cannot be read: No such file or directory"):
        Inputs(("nowhere",)).identities()
    with pytest.raises(InvalidRequestError, match="parquet is not read from standard input"):
        list(Inputs(("-",), "parquet").rows())
    (tmp_path / "a.txt").write_text("a")
    inputs = Inputs((str(tmp_path), str(tmp_path / "a.txt"), "-"))
    before = inputs.identities()
    assert inputs.identities() == before
    (tmp_path / "a.txt").write_text("ab")
    changed = [old != new for old, new in zip(before, inputs.identities(), strict=True)]
    assert changed == [True, True, False]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": "a", "text": "b"}\n')))
    assert list(Inputs(("-",)).rows()) == [Row("<stdin>:1", {"id": "a", "text": "b"})]


def test_the_library_s_rules_are_applied_before_anything_is_sent() -> None:
    good = {"id": "a", "text": "b\ufffe", "version": 2, "metadata": {"c": [1.5, "ü"]}}
    assert check(
        good,
        {"id": "a", "text": "b", "version": 1, "metadata": {}},
        {"id": "a", "text": "x" * 201_000},
        {"id": "a", "text": "b", "version": -1},
        {"id": "a", "text": "b", "metadata": [1]},
        {"id": "\ud800", "text": "b"},
        {"text": "b"},
    ) == [
        Checked("f:0", "a", 2, '{"id":"a","text":"b\\ufffe","version":2,"metadata":{"c":[1.5,"ü"]}}'),
        Checked("f:1", "a", 1, '{"id":"a","text":"b"}'),
        BadRow("f:2", "text: 201000 characters, the limit is 200000"),
        BadRow("f:3", "version: must be from 0 to 9007199254740991"),
        BadRow("f:4", "metadata: must be an object, not an array"),
        BadRow("f:5", "id: must not contain lone surrogates (it is not valid Unicode)"),
        BadRow("f:6", "id: must be a string, not null"),
    ]


def test_openai_batch_requests_are_messages_as_they_are() -> None:
    request = {
        "custom_id": "r#1",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "m", "input": ["a", "b"]},
    }
    (checked,) = check(request)
    assert isinstance(checked, Checked)
    assert (checked.documents, checked.is_message, checked.id) == (2, True, "r#1#0")
    message = parse_message(checked.content, limits=TextLimits())
    assert isinstance(message, EmbedMessage)
    assert json.loads(checked.content) == request
    assert check({**request, "url": "/v1/chat"}, {**request, "body": {"input": ["a", ""]}}, {"custom_id": 1}) == [
        BadRow("f:0", "url: must be /v1/embeddings"),
        BadRow("f:1", "body.input[1]: must not be empty or blank"),
        BadRow("f:2", "custom_id: must be a string, not a number"),
    ]
    (refused,) = check(request, plain=False)
    assert refused == BadRow("f:0", "custom_id: an OpenAI Batch request takes no destination, job or input type")


def test_duplicates_are_seen_in_a_table_that_does_not_grow() -> None:
    seen = Seen(slots=16)
    assert [seen.add(identity, 1) for identity in "abcdefgh"] == [False] * 8
    assert [seen.add("a", 1), seen.add("a", 2), seen.add("h", 1)] == [True, False, True]
    # Half full: what is new is not remembered.
    assert [seen.add("z", 1), seen.add("z", 1)] == [False, False]
