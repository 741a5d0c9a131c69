"""`embakery dlq` on a real SQS emulator; message move tasks, which it lacks, on recorded shapes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from emulated_aws import emulated_aws
from handler_helpers import eventually

import cli.dlq_queues
import cli.dlq_redrive
from cli.dlq_report import contents
from cli.main import main
from embakery.dead_letters import DeadLetter
from local.environment import aws_environment
from local.resources import AwsClients
from storage.dead_letters import SqsDeadLetters
from storage.letters import HOLD_SECONDS

CANARY = "the canary sings at midnight"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsClients]:
    with emulated_aws(tmp_path_factory.mktemp("dlq")) as clients:
        yield clients


@dataclass(frozen=True, slots=True)
class Pair:
    """A queue and its dead-letter queue."""

    sqs: Any
    source: str
    dead: str

    def bury(self, count: int, *, code: str = "invalid_request", group: str | None = None) -> list[str]:
        """Send letters with canaries in text and attributes; returns their original ids."""
        names = [f"failed-{uuid.uuid4().hex[:8]}" for _ in range(count)]
        canary = {"note": {"stringValue": CANARY, "dataType": "String"}}
        sent = [DeadLetter(name, body(name), code, "documents[1].text: is blank", 2, group, canary) for name in names]
        assert SqsDeadLetters(self.sqs, queue_url=self.dead).send(sent) == set(names)
        return names

    def exhaust(self, name: str) -> None:
        """Let SQS move a message, after its last receive."""
        self.sqs.send_message(QueueUrl=self.source, MessageBody=body(name))
        for _ in range(2):
            self.sqs.receive_message(QueueUrl=self.source)

    def counts(self, url: str) -> tuple[int, int]:
        """Messages that are visible, and that are hidden."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        said = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(said[names[0]]), int(said[names[1]])

    def drain(self, url: str) -> list[str]:
        """Take every message's document id away."""
        found = []
        while messages := self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=HOLD_SECONDS
        ).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"])["documents"][0]["id"])
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found


def body(name: str) -> str:
    return json.dumps({"v": 1, "documents": [{"id": name, "text": CANARY}, {"id": f"{name}-b", "text": CANARY}]})


def make_pair(sqs: Any, suffix: str = "") -> Pair:
    name = uuid.uuid4().hex
    kind = {"FifoQueue": "true"} if suffix else {}
    dead = sqs.create_queue(QueueName=f"{name}-dead{suffix}", Attributes=kind)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    attributes = kind | {"RedrivePolicy": policy, "VisibilityTimeout": "0"}
    return Pair(sqs, sqs.create_queue(QueueName=f"{name}{suffix}", Attributes=attributes)["QueueUrl"], dead)


@pytest.fixture
def pair(aws: AwsClients, monkeypatch: pytest.MonkeyPatch) -> Pair:
    made = make_pair(aws.sqs)
    for name, value in (aws_environment(aws.sqs.meta.endpoint_url) | {"EMBAKERY_DLQ_URL": made.dead}).items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; returns exit code, output and error output."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["embakery", "dlq", *arguments])
        code = main()
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_list_says_what_and_why_and_never_a_text(pair: Pair, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    names = pair.bury(3)
    pair.exhaust("exhausted")
    pair.sqs.send_message(QueueUrl=pair.dead, MessageBody=f"{CANARY} [bold]\x85")
    code, out, err = run("list")
    assert (code, err) == (0, "5 messages: 3 invalid_request, 1 moved, 1 unknown; about 5 on the queue\n")
    heads, *lines = [line.split("\t") for line in out.splitlines()]
    assert heads == ["id", "code", "reason", "receives", "age", "bytes", "items", "ids"]
    first = dict(zip(heads, lines[0], strict=True))
    assert first["reason"] == "documents[1].text: is blank"
    assert (first["receives"], first["items"]) == ("2", "2")
    assert first["bytes"] == str(len(body(names[0])))
    assert {line[-1] for line in lines} == {f"{name} {name}-b" for name in [*names, "exhausted"]} | {""}
    assert CANARY not in out + err + caplog.text
    assert pair.counts(pair.dead) == (5, 0)


def test_list_as_json(pair: Pair, run: Any) -> None:
    pair.bury(12)
    pair.bury(2, code="too_large")
    code, out, _ = run("list", "--json", "--code", "too_large", "--limit", "1")
    found = json.loads(out)
    assert (code, found["about"], found["codes"]) == (0, 14, {"too_large": 1})
    assert found["letters"][0]["code"] == "too_large"
    assert CANARY not in out
    assert pair.counts(pair.dead) == (14, 0)


def test_an_empty_queue(pair: Pair, run: Any) -> None:
    assert run("list") == (0, "", "0 messages; about 0 on the queue\n")
    code, out, _ = run("redrive", "--to", pair.source, "--yes", "--json")
    assert (code, json.loads(out)["moved"]) == (0, 0)


def test_a_table_on_a_terminal(pair: Pair) -> None:
    pair.sqs.send_message(QueueUrl=pair.dead, MessageBody=body("[red]\x9b31m"))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "embakery", "dlq", "list"],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
    ) as process:
        assert process.wait(timeout=60) == 0
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "[red]\ufffd31m" in text
    assert len(text.splitlines()) == 3
    assert re.search(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", text)
    assert CANARY not in text


def test_show_by_either_id_and_the_text_only_if_asked_for(pair: Pair, run: Any) -> None:
    names = pair.bury(12)
    code, out, _ = run("show", names[7], "--json")
    facts = json.loads(out)
    assert (code, facts["original_id"], facts["ids"]) == (0, names[7], [names[7], f"{names[7]}-b"])
    assert facts["attributes"] == {"embakery_failure": "String", "note": "String"}
    code, plain, _ = run("show", facts["id"])
    assert code == 0
    assert f"original_id    {names[7]}\n" in plain
    assert CANARY not in out + plain
    assert json.loads(run("show", names[7], "--json", "--with-body")[1])["body"] == body(names[7])
    assert body(names[7]) in run("show", names[7], "--with-body")[1]
    assert pair.counts(pair.dead) == (12, 0)


def test_show_what_is_not_there(pair: Pair, run: Any) -> None:
    assert run("show", "nobody") == (2, "", "embakery: ID: no visible message of this queue has it\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", (None, None, [])),
        ("[" * 100_000, (None, None, [])),
        ("[1]", (None, None, [])),
        ('{"documents": [1, {"id": 2}, {"id": "a"}]}', ("documents", 3, ["a"])),
        (json.dumps({"documents": [{"id": "x" * 257}]}), ("documents", 1, [])),
        ('{"rerank": [{"id": "q"}]}', ("rerank", 1, ["q"])),
        ('{"source": {"key": "k"}}', ("source", None, [])),
        ('{"custom_id": "c"}', ("openai_batch", None, ["c"])),
    ],
)
def test_what_a_message_holds(text: str, expected: tuple[str | None, int | None, list[str]]) -> None:
    assert contents(text) == expected


def test_redrive_everything_to_where_it_came_from(pair: Pair, run: Any) -> None:
    """The emulator has no move tasks: batches do it, and one that SQS moved tells where all came from."""
    names = pair.bury(24)
    pair.exhaust("exhausted")
    code, out, err = run("redrive", "--yes")
    assert (code, out) == (0, "25 moved, 0 failed; about 0 left on the queue\n")
    assert sorted(pair.drain(pair.source)) == sorted([*names, "exhausted"])
    assert CANARY not in out + err


def test_redrive_needs_a_target_if_nobody_knows_one(pair: Pair, run: Any) -> None:
    pair.bury(1)
    code, _, err = run("redrive", "--yes")
    assert (code, err) == (2, "embakery: --to: must say where to: 0 queues are known to send their failures here\n")
    assert pair.counts(pair.dead) == (1, 0)


@pytest.mark.parametrize("option", ["dead", "fifo"])
def test_redrive_refuses_a_target_of_no_use(pair: Pair, run: Any, option: str) -> None:
    target = pair.dead if option == "dead" else make_pair(pair.sqs, ".fifo").source
    code, _, err = run("redrive", "--yes", "--to", target)
    assert (code, err.split(":")[1]) == (2, " --to")


def test_redrive_asks(pair: Pair, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.bury(2)
    asked: list[str] = []

    def refuse(text: str) -> str:
        asked.append(text)
        return "n"

    monkeypatch.setattr("click.termui.visible_prompt_func", refuse)
    assert run("redrive", "--to", pair.source)[0] == 130
    assert asked[0].startswith(f"All of about 2 messages to {pair.source}?")
    assert (pair.counts(pair.dead), pair.counts(pair.source)) == ((2, 0), (0, 0))


def test_redrive_by_code_id_and_limit(pair: Pair, run: Any) -> None:
    names = pair.bury(5)
    large = pair.bury(15, code="too_large")
    to = ("--to", pair.source)
    code, out, _ = run("redrive", *to, "--code", "too_large", "--dry-run", "--json")
    assert (code, json.loads(out)["codes"]) == (0, {"too_large": 15})
    code, out, _ = run("redrive", *to, "--code", "too_large", "--limit", "12", "--yes", "--json")
    assert (code, json.loads(out)["moved"], json.loads(out)["about_left"]) == (0, 12, 8)
    moved = pair.drain(pair.source)
    assert set(moved) < set(large)
    code, out, _ = run("redrive", *to, "--id", names[3], "--yes")
    assert (code, out, pair.drain(pair.source)) == (0, "1 moved, 0 failed; about 7 left on the queue\n", [names[3]])
    code, _, err = run("redrive", *to, "--id", names[0], "--id", "nobody", "--yes")
    assert (code, "1 ids not found" in err, pair.drain(pair.source)) == (1, True, [names[0]])
    assert pair.counts(pair.dead) == (6, 0)


def test_redrive_keeps_the_order_of_a_group(pair: Pair, run: Any) -> None:
    fifo = make_pair(pair.sqs, ".fifo")
    names = fifo.bury(23, group="g")
    code, _, _ = run("redrive", "--queue-url", fifo.dead, "--to", fifo.source, "--yes")
    assert (code, fifo.drain(fifo.source)) == (0, names)


def test_what_fails_again_meanwhile_is_not_sent_again(pair: Pair, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a redrive of messages that fail at once would never end."""
    pair.bury(3)
    time.sleep(1.1)
    from storage.letters import Hand

    delete = Hand.delete

    def delete_and_fail_again(hand: Hand, message_ids: Any) -> frozenset[str]:
        left = delete(hand, message_ids)
        time.sleep(1.1)
        pair.bury(3)
        return left

    monkeypatch.setattr(Hand, "delete", delete_and_fail_again)
    code, out, _ = run("redrive", "--to", pair.source, "--yes")
    assert (code, out) == (0, "3 moved, 0 failed; about 3 left on the queue\n")


def test_a_failure_is_exit_code_one(pair: Pair, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from storage.letters import Hand

    pair.bury(2)
    monkeypatch.setattr(Hand, "delete", lambda _, message_ids: frozenset(message_ids))
    code, out, err = run("redrive", "--to", pair.source, "--code", "invalid_request", "--yes")
    assert (code, "2 more were sent but are still here" in out) == (1, True)
    assert err.splitlines()[-1] == "embakery: 0 not moved, 2 sent but still here, 0 ids not found"
    assert pair.counts(pair.dead) == (2, 0)


def start(setup: str, *arguments: str) -> subprocess.Popen[str]:
    script = (
        "import sys, os, signal, storage.letters as letters; from cli.main import main\n"
        f"{setup}\nsys.argv = ['embakery', 'dlq', *{arguments!r}]; sys.exit(main())"
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


KILL_BEFORE_THE_FIFTH_DELETE = """
delete, calls = letters.Hand.delete, []
def killed(hand, ids):
    calls.append(1)
    return os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 5 else delete(hand, ids)
letters.Hand.delete = killed
"""


@pytest.mark.parametrize("moment", ["any", "between"])
def test_killed_in_the_middle_nothing_is_lost(pair: Pair, run: Any, moment: str) -> None:
    names = pair.bury(300)
    setup = "letters.HOLD_SECONDS = 2\n" + (KILL_BEFORE_THE_FIFTH_DELETE if moment == "between" else "")
    with start(setup, "redrive", "--to", pair.source, "--yes", "--max-per-second", "100") as process:
        if moment == "any":
            eventually(lambda: pair.counts(pair.source)[0] >= 50)
            process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
    eventually(lambda: pair.counts(pair.dead)[1] == 0)
    sent, left = pair.counts(pair.source)[0], pair.counts(pair.dead)[0]
    assert 50 <= sent < 300
    # Of the batch in hand at most, both queues may hold one.
    assert sent + left - 300 in ([10] if moment == "between" else range(11))
    code, _, _ = run("redrive", "--to", pair.source, "--yes")
    moved = pair.drain(pair.source)
    assert (code, set(moved)) == (0, set(names))
    assert len(moved) <= 310


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_everything_is_visible_again(pair: Pair, number: signal.Signals) -> None:
    names = pair.bury(200)
    # Nothing but code: every other message stays in the hand.
    pair.bury(50, code="too_large")
    arguments = ("--to", pair.source, "--code", "invalid_request", "--yes", "--max-per-second", "50")
    with start("", "redrive", *arguments) as process:
        eventually(lambda: pair.counts(pair.source)[0] >= 30)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    sent = pair.counts(pair.source)[0]
    assert out.startswith(f"{sent} moved, 0 failed")
    assert pair.counts(pair.dead) == (250 - sent, 0)
    assert set(pair.drain(pair.source) + pair.drain(pair.dead)) >= set(names)


def test_interrupted_while_listing_everything_is_visible_again(pair: Pair) -> None:
    pair.bury(200)
    slow = (
        "parse, sleep = letters._letter, __import__('time').sleep\nletters._letter = lambda m: sleep(0.02) or parse(m)"
    )
    with start(slow, "list", "--limit", "1000") as process:
        eventually(lambda: pair.counts(pair.dead)[1] >= 30)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert pair.counts(pair.dead) == (200, 0)


DEAD, SOURCE = (
    "https://sqs.us-east-1.amazonaws.com/123456789012/dead",
    "https://sqs.us-east-1.amazonaws.com/123456789012/docs",
)
DEAD_ARN, SOURCE_ARN = "arn:aws:sqs:us-east-1:123456789012:dead", "arn:aws:sqs:us-east-1:123456789012:docs"


class Tasks:
    """Recorded answers of SQS, in the order of the calls."""

    def __init__(self, stub: Stubber) -> None:
        self.stub = stub

    def queue(self, arn: str, count: int = 0) -> None:
        attributes = {"QueueArn": arn, "ApproximateNumberOfMessages": str(count)}
        headers = {"HTTPHeaders": {"date": "Wed, 25 Nov 2026 03:00:00 GMT"}}
        self.stub.add_response("get_queue_attributes", {"Attributes": attributes, "ResponseMetadata": headers})

    def listed(self, status: str | None = None, moved: int = 0, *, started: int = 1764000000000, **more: Any) -> None:
        entry = {
            "Status": status,
            "SourceArn": DEAD_ARN,
            "DestinationArn": SOURCE_ARN,
            "ApproximateNumberOfMessagesMoved": moved,
            "ApproximateNumberOfMessagesToMove": 40,
            "StartedTimestamp": started,
        }
        results = [] if status is None else [entry | more]
        self.stub.add_response(
            "list_message_move_tasks", {"Results": results}, {"SourceArn": DEAD_ARN, "MaxResults": 1}
        )

    def begin(self) -> None:
        self.queue(DEAD_ARN, 40)
        self.stub.add_response("list_dead_letter_source_queues", {"queueUrls": [SOURCE]})
        self.queue(SOURCE_ARN)

    def started(self, **more: Any) -> None:
        asked = {"SourceArn": DEAD_ARN, "DestinationArn": SOURCE_ARN, **more}
        self.stub.add_response("start_message_move_task", {"TaskHandle": "handle"}, asked)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tasks]:
    client = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    monkeypatch.setattr(cli.dlq_queues, "open_sqs", lambda: client)
    monkeypatch.setattr(cli.dlq_redrive, "_POLL_SECONDS", 0.0)
    monkeypatch.setenv("EMBAKERY_DLQ_URL", DEAD)
    with Stubber(client) as stub:
        yield Tasks(stub)
        stub.assert_no_pending_responses()
    client.close()


def test_a_move_task_moves_everything(tasks: Tasks, run: Any) -> None:
    tasks.begin()
    tasks.listed("COMPLETED", 7, started=1)
    tasks.started(MaxNumberOfMessagesPerSecond=20)
    # The list is behind: it still ends with the task before.
    tasks.listed("COMPLETED", 7, started=1)
    tasks.listed("RUNNING", 20, TaskHandle="handle")
    tasks.listed("COMPLETED", 40)
    tasks.queue(DEAD_ARN, 0)
    code, out, _ = run("redrive", "--yes", "--max-per-second", "20", "--json")
    figures = json.loads(out)
    assert (code, figures["moved"], figures["by"], figures["target_url"]) == (0, 40, "task", SOURCE)


def test_a_move_task_that_fails(tasks: Tasks, run: Any) -> None:
    tasks.begin()
    tasks.listed()
    tasks.started()
    tasks.listed("FAILED", 10, FailureReason="AWS.SimpleQueueService.NonExistentQueue")
    tasks.queue(DEAD_ARN, 30)
    code, out, err = run("redrive", "--yes")
    assert out == "10 moved, 30 failed (AWS.SimpleQueueService.NonExistentQueue); about 30 left on the queue\n"
    assert (code, err.splitlines()[-1].startswith("embakery: 30 not moved")) == (1, True)


def test_a_move_task_that_knows_no_source_is_finished_in_batches(tasks: Tasks, run: Any) -> None:
    tasks.begin()
    tasks.listed()
    tasks.started()
    tasks.listed("FAILED", 39, FailureReason="CouldNotDetermineMessageSource")
    message = {"MessageId": "m", "ReceiptHandle": "r", "Body": "{}", "Attributes": {"SentTimestamp": "1"}}
    tasks.stub.add_response("receive_message", {"Messages": [message]})
    tasks.stub.add_response("send_message_batch", {"Successful": [_sent()], "Failed": []})
    tasks.stub.add_response("delete_message_batch", {"Successful": [{"Id": "0"}], "Failed": []})
    tasks.stub.add_response("receive_message", {})
    tasks.queue(DEAD_ARN, 0)
    assert run("redrive", "--yes")[:2] == (0, "40 moved, 0 failed; about 0 left on the queue\n")


def _sent() -> dict[str, str]:
    return {"Id": "0", "MessageId": "n", "MD5OfMessageBody": "99914b932bd37a50b983c5e7c90ae93b"}


def test_a_move_task_is_cancelled_on_interrupt(tasks: Tasks, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.begin()
    tasks.listed()
    tasks.started()
    tasks.listed("RUNNING", 10, TaskHandle="handle")
    tasks.stub.add_response(
        "cancel_message_move_task", {"ApproximateNumberOfMessagesMoved": 12}, {"TaskHandle": "handle"}
    )
    tasks.listed("CANCELLING", 12)
    tasks.listed("CANCELLED", 13)
    tasks.queue(DEAD_ARN, 27)
    slept: list[float] = []

    def interrupted(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(time, "sleep", interrupted)
    code, out, err = run("redrive", "--yes")
    assert (code, out) == (130, "13 moved, 0 failed; about 27 left on the queue\n")
    assert err.splitlines()[-1] == "interrupted"


def test_trouble_while_following_cancels_the_task(tasks: Tasks, run: Any) -> None:
    tasks.begin()
    tasks.listed()
    tasks.started()
    tasks.stub.add_client_error("list_message_move_tasks", "AccessDenied", "no")
    tasks.stub.add_response("cancel_message_move_task", {"ApproximateNumberOfMessagesMoved": 0})
    assert run("redrive", "--yes")[0] == 1


def test_somebody_elses_cancelling_is_a_failure(tasks: Tasks, run: Any) -> None:
    tasks.begin()
    tasks.listed()
    tasks.started()
    tasks.listed("CANCELLED", 13)
    tasks.queue(DEAD_ARN, 27)
    code, out, _ = run("redrive", "--yes")
    assert (code, "somebody cancelled" in out) == (1, True)


def test_a_running_move_task_is_left_alone(tasks: Tasks, run: Any) -> None:
    tasks.begin()
    tasks.listed("RUNNING", 3, TaskHandle="another")
    code, _, err = run("redrive", "--yes")
    assert (code, err) == (1, "embakery: another message move task of this queue is running\n")


@pytest.mark.parametrize(
    "code", ["InvalidAction", "UnknownOperation", "UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation"]
)
def test_batches_do_it_where_there_are_no_move_tasks(tasks: Tasks, run: Any, code: str) -> None:
    tasks.begin()
    tasks.stub.add_client_error("list_message_move_tasks", code)
    tasks.stub.add_response("receive_message", {})
    tasks.queue(DEAD_ARN, 0)
    assert run("redrive", "--yes", "--json")[0] == 0


def test_a_forbidden_move_task_is_said(tasks: Tasks, run: Any) -> None:
    """Not done in batches instead: whoever may not start a task is told so."""
    tasks.begin()
    tasks.listed()
    tasks.stub.add_client_error("start_message_move_task", "AccessDenied", "not allowed")
    code, _, err = run("redrive", "--yes")
    assert (code, "AccessDenied" in err) == (1, True)
