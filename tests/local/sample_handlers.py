"""Tiny handlers, run in real child processes by the tests beside them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

calls = 0


def echo(event: Any, context: Any) -> Any:
    return event


def describe(event: Any, context: Any) -> dict[str, Any]:
    """What the runtime gives a handler."""
    global calls
    calls += 1
    return {
        "pid": os.getpid(),
        "calls": calls,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "context": {
            name: getattr(context, name)
            for name in (
                "function_name",
                "function_version",
                "invoked_function_arn",
                "memory_limit_in_mb",
                "aws_request_id",
                "log_group_name",
                "log_stream_name",
            )
        },
        "env": {name: os.environ.get(name) for name in event.get("env", [])},
    }


def act(event: dict[str, Any], context: Any) -> Any:
    """Do what the event says."""
    match event["do"]:
        case "raise":
            raise ValueError("the text was: " + event["text"])
        case "sleep":
            time.sleep(event["seconds"])
        case "wait":
            while not os.path.exists(event["until"]):
                time.sleep(0.01)
        case "exit":
            sys.exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "start and sleep" | "start and exit":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            Path(event["note"]).write_text(str(child.pid))
            if event["do"] == "start and exit":
                os._exit(3)
            time.sleep(60)
        case "unserializable":
            return {"value": {1, 2}}
        case "surrogate":
            return {"value": "\ud800"}
        case "large":
            return "x" * event["size"]
        case "print":
            print(event["line"], flush=True)
            print(event["line"] + " to stderr", file=sys.stderr, flush=True)
    return {"pid": os.getpid()}


def queue(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Fail the messages whose body says so; kill the process for `kill`."""
    failures = []
    for record in event["Records"]:
        body = json.loads(record["body"])
        if body == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if body == "hang":
            time.sleep(60)
        if body == "fail":
            failures.append({"itemIdentifier": record["messageId"]})
    metrics = [
        {"Namespace": "Embakery", "Dimensions": [["service"]], "Metrics": [{"Name": "Documents", "Unit": "Count"}]}
    ]
    emf = {"_aws": {"Timestamp": 0, "CloudWatchMetrics": metrics}, "service": "t", "Documents": [len(event["Records"])]}
    print(json.dumps(emf), flush=True)
    return {"batchItemFailures": failures}


def api(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer with the event."""
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(event)}
