"""`embakery enqueue` as a user runs it: real processes against the real emulator, stopped and killed half-way."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handler_helpers import eventually, rows, unique

from embakery.sources import Source
from local.environment import aws_environment, base_environment
from local.processes import ServerProcess
from local.resources import AwsClients
from local.servers import start_ministack
from local.system import LocalSystem
from storage.claim_check import ClaimCheck

# Says its own peak memory in KiB when it ends, as the last line of standard error. Not ru_maxrss: a child's starts
# with what its parent had.
_MEASURED = """
import atexit, re, sys
status = lambda: open("/proc/self/status").read()
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", status())[1], file=sys.stderr))
from cli.main import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Cloud:
    """An emulator of this file's own, as it ends one of them half-way."""

    server: ServerProcess
    clients: AwsClients
    state: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def queue(self, *, fifo: bool = False) -> str:
        name = uuid.uuid4().hex
        if fifo:
            made = self.clients.sqs.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})
        else:
            made = self.clients.sqs.create_queue(QueueName=name)
        return made["QueueUrl"]

    def drain(self, queue_url: str) -> list[dict[str, Any]]:
        """Take every message, with its body and attributes, in the order they come."""
        sqs, messages = self.clients.sqs, []
        while found := sqs.receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10, AttributeNames=["All"], WaitTimeSeconds=0
        ).get("Messages"):
            messages += found
            entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(found)]
            sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries)  # type: ignore[arg-type]
        return messages  # type: ignore[return-value]

    def documents(self, queue_url: str) -> list[dict[str, Any]]:
        return [doc for message in self.drain(queue_url) for doc in json.loads(message["Body"])["documents"]]

    def enqueue(self, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "embakery", "enqueue", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=self.env, **more)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "embakery", "enqueue", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = start_ministack(tmp_path_factory.mktemp("ministack"))
    yield server
    server.stop()


@pytest.fixture
def cloud(emulator: ServerProcess, tmp_path: Path) -> Iterator[Cloud]:
    endpoint = f"http://{emulator.address}"
    clients = AwsClients.connect(endpoint)
    env = base_environment(os.environ) | aws_environment(endpoint) | {"XDG_STATE_HOME": str(tmp_path / "state")}
    yield Cloud(emulator, clients, tmp_path / "state", env)
    clients.close()


def json_lines(path: Path, count: int) -> Path:
    lines = (json.dumps({"id": f"d{n}", "text": f"text number {n} ☃"}) + "\n" for n in range(count))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    counts = json.loads(done.stdout)
    assert counts.pop("seconds") >= 0
    return {name: count for name, count in counts.items() if count and name != "bytes"}


def records(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else -1


def await_progress(process: subprocess.Popen[str], journal: Path) -> None:
    """Wait until a batch of this process is in the journal, or the process has ended."""
    before = records(journal)
    eventually(lambda: records(journal) > before or process.poll() is not None)


def test_bad_rows_are_named_and_the_others_go_on(cloud: Cloud, tmp_path: Path) -> None:
    file = json_lines(tmp_path / "some.jsonl", 12)
    with file.open("a") as out:
        out.write('oops secret\n{"id": 7, "text": "secret"}\n{"id": "d1", "text": "secret", "title": "x"}\n')
    queue = cloud.queue()
    done = cloud.enqueue(file, "--queue-url", queue, "--destination", "table", "--job-id", "j-1")
    assert done.returncode == 2
    assert done.stdout.startswith("13 documents sent in 2 messages (")
    assert done.stdout.endswith("2 rejected, 1 duplicates among them\n")
    assert f"{file}:13: is not valid JSON\n{file}:14: id: must be a string, not a number\n" in done.stderr
    assert f"{file}:15: has the id and version of another one before it\n" in done.stderr
    assert "fields that a document does not have were left out: title\n" in done.stderr
    assert "secret" not in done.stderr
    first, second = (json.loads(message["Body"]) for message in cloud.drain(queue))
    assert first["documents"][3] == {"id": "d3", "text": "text number 3 ☃"}
    assert [len(message["documents"]) for message in (first, second)] == [10, 3]
    assert (first["destination"], first["job_id"], first["input_type"]) == ("table", "j-1", "document")


def test_strict_sends_all_or_nothing_even_from_a_pipe(cloud: Cloud) -> None:
    queue = cloud.queue()
    good = "".join(f'{{"id": "{n}", "text": "t"}}\n' for n in range(15))
    done = cloud.enqueue("-", "--queue-url", queue, "--strict", input=good + "{}\n")
    assert done.returncode == 2
    assert "<stdin>:16: id: must be a string, not null\n" in done.stderr
    assert "embakery: 1 rejected, so nothing was sent\n" in done.stderr
    assert cloud.drain(queue) == []
    done = cloud.enqueue("-", "--queue-url", queue, "--strict", "--json", input=good)
    assert result(done) == {"documents": 15, "messages": 2, "done": True}
    assert len(cloud.documents(queue)) == 15


def test_a_dry_run_needs_no_queue_and_sends_nothing(cloud: Cloud, tmp_path: Path) -> None:
    done = cloud.enqueue(json_lines(tmp_path / "a.jsonl", 25), "--dry-run", "--json")
    assert (done.returncode, result(done)) == (0, {"documents": 25, "messages": 3, "dry_run": True, "done": True})
    assert not cloud.state.exists()
    done = cloud.enqueue(tmp_path / "a.jsonl")
    assert (done.returncode, "--queue-url" in done.stderr) == (2, True)


def test_what_was_sent_is_not_sent_again_unless_asked(cloud: Cloud, tmp_path: Path) -> None:
    file, queue = json_lines(tmp_path / "a.jsonl", 25), cloud.queue()
    command = (file, "--queue-url", queue, "--json")
    assert result(cloud.enqueue(*command)) == {"documents": 25, "messages": 3, "done": True}
    done = cloud.enqueue(*command)
    assert (done.returncode, result(done)) == (0, {"resumed": 25, "done": True})
    assert "already sent, --again to send once more" in done.stderr
    assert len(cloud.documents(queue)) == 25
    cloud.enqueue(*command, "--again")
    assert len(cloud.documents(queue)) == 25
    json_lines(file, 26)
    assert result(cloud.enqueue(*command)) == {"documents": 26, "messages": 3, "done": True}
    cloud.enqueue(*command, "--no-journal")
    assert len(cloud.documents(queue)) == 52
    (journal,) = (cloud.state / "embakery" / "enqueue").iterdir()
    assert journal.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("number", "tries"), [(signal.SIGINT, 6), (signal.SIGTERM, 2)])
def test_interrupted_at_random_each_document_is_delivered_once(
    cloud: Cloud, tmp_path: Path, number: signal.Signals, tries: int
) -> None:
    file, queue, journal = json_lines(tmp_path / "a.jsonl", 12_000), cloud.queue(), tmp_path / "journal"
    command = (file, "--queue-url", queue, "--journal", journal, "--documents-per-message", 2)
    chance = random.Random(number)
    stopped = 0
    for _ in range(tries):
        process = cloud.start(*command)
        await_progress(process, journal)
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode in (0, 130), told
        stopped += process.returncode == 130
        assert ("the same command goes on from there (journal: " in told) == (process.returncode == 130)
    assert stopped >= 2
    assert cloud.enqueue(*command).returncode == 0
    assert Counter(doc["id"] for doc in cloud.documents(queue)) == Counter(f"d{n}" for n in range(12_000))


@pytest.mark.parametrize("fifo", [False, True])
def test_killed_at_random_nothing_is_lost_and_at_most_one_batch_doubled(
    cloud: Cloud, tmp_path: Path, fifo: bool
) -> None:
    count = 4_000 if fifo else 12_000
    file, queue, journal = json_lines(tmp_path / "a.jsonl", count), cloud.queue(fifo=fifo), tmp_path / "journal"
    command = (file, "--queue-url", queue, "--journal", journal, "--documents-per-message", 2)
    chance = random.Random(7)
    kills = 0
    for _ in range(8):
        process = cloud.start(*command)
        await_progress(process, journal)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 2
    assert cloud.enqueue(*command).returncode == 0
    times = Counter(doc["id"] for doc in cloud.documents(queue))
    assert times.keys() == {f"d{n}" for n in range(count)}
    doubled = sum(times.values()) - count
    # Two documents a message, ten messages a batch; a FIFO queue knows a doubled message again.
    assert doubled <= (0 if fifo else kills * 20)


def test_killed_between_the_answer_and_the_journal_one_batch_is_doubled(cloud: Cloud, tmp_path: Path) -> None:
    """The worst moment, met exactly: SQS has taken a batch, and nothing on disk says so."""
    killed = """
import os, signal, sys
from cli.journal import Journal
from cli.main import main
record, calls = Journal.record, []
def dying(self):
    calls.append(1)
    os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 3 else record(self)
Journal.record = dying
sys.exit(main())
"""
    file, queue, journal = json_lines(tmp_path / "a.jsonl", 500), cloud.queue(), tmp_path / "journal"
    command = ["enqueue", str(file), "--queue-url", queue, "--journal", str(journal)]
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", killed, *command], env=cloud.env, capture_output=True)
        assert done.returncode == -signal.SIGKILL
    assert result(cloud.enqueue(*command[1:], "--json")) == {
        "documents": 100,
        "messages": 10,
        "resumed": 400,
        "done": True,
    }
    times = Counter(document["id"] for document in cloud.documents(queue))
    assert times == Counter(f"d{n}" for n in range(500)) + Counter(
        f"d{n}" for n in (*range(200, 300), *range(400, 500))
    )


def test_ctrl_c_does_not_wait_for_a_pipe(cloud: Cloud, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "embakery", "enqueue", "-", "--queue-url", cloud.queue(), "--journal"]
    journal = tmp_path / "journal"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, str(journal)], env=cloud.env, text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write("".join(f'{{"id": "{n}", "text": "t"}}\n' for n in range(1000)))
        process.stdin.flush()
        eventually(lambda: records(journal) >= 8)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 130
        assert "the same command goes on from there" in process.stderr.read()


def test_a_journal_fits_one_run_only(cloud: Cloud, tmp_path: Path) -> None:
    file, queue, journal = json_lines(tmp_path / "a.jsonl", 30_000), cloud.queue(), tmp_path / "journal"
    command = (file, "--queue-url", queue, "--journal", journal, "--documents-per-message", 1)
    process = cloud.start(*command)
    eventually(lambda: records(journal) > 0)
    held = cloud.enqueue(*command)
    assert (held.returncode, "another enqueue is at work" in held.stderr) == (3, True)
    process.send_signal(signal.SIGINT)
    process.communicate()
    other = cloud.enqueue(*command[:-1], 5)
    assert (other.returncode, "differs in: documents-per-message;" in other.stderr) == (2, True)
    json_lines(file, 30_001)
    other = cloud.enqueue(*command)
    assert (other.returncode, f"differs in: {file} (changed);" in other.stderr) == (2, True)
    done = cloud.enqueue(file, "--queue-url", queue, "--journal", file)
    assert (done.returncode, "is not a journal" in done.stderr) == (3, True)
    assert file.read_text().count("\n") == 30_001


def test_a_queue_that_goes_away_is_waited_for_and_then_gone_on_with(cloud: Cloud, tmp_path: Path) -> None:
    server = start_ministack(tmp_path)
    endpoint = f"http://{server.address}"
    clients = AwsClients.connect(endpoint)
    own = Cloud(server, clients, cloud.state, {**cloud.env, **aws_environment(endpoint)})
    try:
        file, queue, journal = json_lines(tmp_path / "a.jsonl", 10_000), own.queue(), tmp_path / "journal"
        process = own.start(file, "--queue-url", queue, "--journal", journal, "--documents-per-message", 1)
        eventually(lambda: records(journal) > 10)
        server.kill()
        time.sleep(1)
        assert process.poll() is None
        # It holds on for half a minute; Ctrl-C during a pause does not wait for its end.
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=5)
        assert (process.returncode, "the same command goes on from there" in told) == (130, True)
    finally:
        clients.close()
        server.stop()


def test_a_fifo_queue_keeps_an_id_s_versions_in_order(cloud: Cloud, tmp_path: Path) -> None:
    file, queue = tmp_path / "a.jsonl", cloud.queue(fifo=True)
    with file.open("w") as out:
        for version in range(1, 11):
            out.writelines(f'{{"id": "d{n}", "text": "t", "version": {version}}}\n' for n in range(50))
    done = cloud.enqueue(file, "--queue-url", queue, "--groups", 8, "--json")
    assert result(done)["documents"] == 500
    versions: dict[str, list[int]] = {}
    groups: dict[str, set[str]] = {}
    for message in cloud.drain(queue):
        for document in json.loads(message["Body"])["documents"]:
            versions.setdefault(document["id"], []).append(document.get("version", 1))
            groups.setdefault(document["id"], set()).add(message["Attributes"]["MessageGroupId"])
    assert set(map(tuple, versions.values())) == {tuple(range(1, 11))}
    assert {len(names) for names in groups.values()} == {1}
    assert len(set.union(*groups.values())) > 4


def test_claim_checks(cloud: Cloud, tmp_path: Path) -> None:
    cloud.clients.s3.create_bucket(Bucket="payloads")
    reader = ClaimCheck(cloud.clients.s3, bucket="payloads", prefix="in/", owner=None, max_bytes=10_000_000)
    where = ("--claim-check-bucket", "payloads", "--claim-check-prefix", "in/", "--json")
    file, queue = json_lines(tmp_path / "a.jsonl", 250), cloud.queue()
    with file.open("a") as out:
        out.write(json.dumps({"id": "large", "text": "x" * 1_100_000}) + "\n")
    done = cloud.enqueue(file, "--queue-url", queue, "--max-characters", 2_000_000, *where)
    assert result(done) == {"documents": 251, "messages": 26, "claim_checks": 1, "done": True}
    (body,) = (body for body in (json.loads(m["Body"]) for m in cloud.drain(queue)) if "source" in body)
    assert body.keys() == {"v", "source", "input_type", "destination"}
    with reader.lines(Source(**body["source"])) as lines:
        assert [json.loads(line)["id"] for line in lines] == ["large"]

    json_lines(file, 250)
    always = ("--claim-check", "always", "--claim-check-documents", 100)
    done = cloud.enqueue(file, "--queue-url", queue, *always, *where)
    assert result(done) == {"documents": 250, "messages": 3, "claim_checks": 3, "done": True}
    found = []
    for message in cloud.drain(queue):
        with reader.lines(Source(**json.loads(message["Body"])["source"])) as lines:
            found += [json.loads(line)["id"] for line in lines]
    assert sorted(found) == sorted(f"d{n}" for n in range(250))

    file.write_text(json.dumps({"id": "large", "text": "x" * 1_100_000}) + "\n")
    done = cloud.enqueue(file, "--queue-url", queue, "--max-characters", 2_000_000)
    assert (done.returncode, "larger ones need --claim-check-bucket" in done.stderr) == (2, True)
    assert cloud.enqueue(file, "--queue-url", queue, "--claim-check", "always").returncode == 3


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_thirty_thousand_documents_pass_through_little_memory(cloud: Cloud, tmp_path: Path, format_: str) -> None:
    text, queue = "a text of two thousand characters. " * 57, cloud.queue()
    peaks = []
    for count in (300, 30_000):
        file = tmp_path / f"{count}.{format_}"
        if format_ == "csv":
            with file.open("w", newline="") as out:
                csv.writer(out).writerows([["id", "text", "n"], *([f"d{n}", text, n] for n in range(count))])
        else:
            table = {"id": range(count), "text": [f"{n} {text}" for n in range(count)], "n": range(count)}
            pq.write_table(pa.table(table), file, compression="none", use_dictionary=False)
        command = [sys.executable, "-c", _MEASURED, "enqueue", str(file), "--queue-url", queue, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=cloud.env, check=True)
        assert result(done) == {"documents": count, "messages": count // 10, "done": True}
        peaks.append(int(done.stderr.splitlines()[-1]) / 1024)
    assert len(cloud.drain(queue)) == 3030
    # The file is 60 MB.
    print(f"{format_}: {peaks[0]:.0f} and {peaks[1]:.0f} MiB")
    assert peaks[1] - peaks[0] < 25


def test_the_documentation_s_commands_do_what_they_say(cloud: Cloud, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "enqueue.md").read_text(encoding="utf-8")
    commands = [line.strip() for line in page.splitlines() if line.startswith("    ") and "embakery enqueue" in line]
    assert len(commands) == 6
    json_lines(tmp_path / "documents.jsonl", 5)
    (tmp_path / "articles.csv").write_text("slug,body\na,b\n")
    pq.write_table(pa.table({"id": ["p"], "text": ["q"]}), tmp_path / "part-1.parquet")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "n.txt").write_text("note")
    env = {**cloud.env, "EMBAKERY_QUEUE_URL": cloud.queue()}
    shell = f'embakery() {{ {sys.executable} -m embakery "$@"; }}\n'
    sent = []
    for command in commands:
        done = subprocess.run(["bash", "-c", shell + command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        sent.append(len(cloud.documents(env["EMBAKERY_QUEUE_URL"])))
    assert sent == [5, 1, 2, 5, 0, 5]


def test_every_format_arrives(system: LocalSystem, tmp_path: Path) -> None:
    """Through the real worker, to the rows that a consumer reads."""
    names = [unique(kind) for kind in ("lines", "table", "folder", "request", "columns")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": names[0], "text": "one"}) + "\n")
    (tmp_path / "b.csv").write_text(f"id,text,lang\n{names[1]},two,en\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / f"{names[2]}.md").write_text("three")
    body = {"model": "all-MiniLM-L6-v2", "input": "four"}
    request = {"custom_id": names[3], "method": "POST", "url": "/v1/embeddings", "body": body}
    (tmp_path / "batch.jsonl").write_text(json.dumps(request) + "\n")
    pq.write_table(pa.table({"id": [names[4]], "text": ["five"]}), tmp_path / "e.parquet")
    env = {
        **os.environ,
        **aws_environment(system.endpoints["aws"]),
        "EMBAKERY_QUEUE_URL": system.endpoints["queue_url"],
    }
    files = [str(tmp_path / name) for name in ("a.jsonl", "b.csv", "notes", "batch.jsonl", "e.parquet")]
    command = [sys.executable, "-m", "embakery", "enqueue", *files, "--json", "--no-journal"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result(done) == {"documents": 5, "messages": 2, "done": True}, done.stderr
    expected = {names[0], names[1], f"{names[2]}.md", names[3], names[4]}
    eventually(lambda: expected <= rows(system).keys())
    assert rows(system)[names[1]]["metadata"] == {"lang": "en"}


def test_payloads_arrive_too(system: LocalSystem, tmp_path: Path) -> None:
    names = [unique("payload") for _ in range(30)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"id": name, "text": f"kept as {name}"}) + "\n" for name in names))
    env = {
        **os.environ,
        **aws_environment(system.endpoints["aws"]),
        "EMBAKERY_QUEUE_URL": system.endpoints["queue_url"],
    }
    env["EMBAKERY_SOURCE_BUCKET"] = system.endpoints["bucket"]
    options = ["--claim-check", "always", "--claim-check-documents", "20", "--json", "--no-journal"]
    command = [sys.executable, "-m", "embakery", "enqueue", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result(done) == {"documents": 30, "messages": 2, "claim_checks": 2, "done": True}, done.stderr
    eventually(lambda: set(names) <= rows(system).keys())
