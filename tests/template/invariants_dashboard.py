"""What must hold for the dashboard: it is valid JSON and shows what exists.

CloudWatch draws a metric that nobody publishes as an empty graph, which looks like peace.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from intrinsics import decide, placeholders
from invariants_watch import services
from template_source import ROOT, Invariant, Template, dead_letter_queue, fed_queues, functions, resources

AWS_METRICS = {
    "AWS/SQS": {
        "ApproximateAgeOfOldestMessage",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesVisible",
    },
    "AWS/Lambda": {"ConcurrentExecutions", "Duration", "Errors", "Invocations", "Throttles"},
    # Of an HTTP API, in lower case; a REST API calls them 4XXError.
    "AWS/ApiGateway": {"4xx", "5xx", "Count", "Latency"},
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of a graph; dimensions as alternating names and values."""

    namespace: str
    name: str
    dimensions: tuple[str, ...]


def dashboard_is_json(template: Template) -> list[str]:
    """With every optional line and without."""
    broken = []
    for fifo in ("false", "true"):
        try:
            widgets = _widgets(template, fifo)
        except (ValueError, IndexError) as error:
            broken.append(f"WithFifoQueue={fifo}: {error}")
            continue
        places = [tuple(widget[side] for side in ("x", "y", "width", "height")) for widget in widgets]
        if len(set(places)) < len(places) or any(x + width > 24 for x, _, width, _ in places):
            broken.append(f"WithFifoQueue={fifo}: widgets over each other or beyond the edge")
    return broken


def dashboard_shows_metrics_that_exist(template: Template) -> list[str]:
    """The handlers' own are named in their code, with the service that the function is told to be."""
    ours, served = recorded_metrics(), {pattern(service) for service in services(template).values()}
    broken = []
    for metric in shown(template, "true"):
        dimensions = dict(zip(metric.dimensions[::2], metric.dimensions[1::2], strict=True))
        if metric.namespace == "Embakery":
            wanted = {"function_name", "service"} if metric.name == "ColdStart" else {"service"}
            exists = metric.name in ours and set(dimensions) == wanted and dimensions["service"] in served
        else:
            exists = metric.name in AWS_METRICS.get(metric.namespace, set())
        if not exists:
            broken.append(f"{metric}")
    return broken


def dashboard_shows_every_queue_and_function(template: Template) -> list[str]:
    """What waits and what was given up; calls, errors, throttles, duration and instances."""
    queues = {name for name, _ in fed_queues(template)}
    dead = {dead_letter_queue(queue) for _, queue in fed_queues(template)}
    waiting, depth = "ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"
    wanted = {(waiting, f"${{{name}.QueueName}}") for name in queues}
    wanted |= {(depth, f"${{{name}.QueueName}}") for name in queues | dead}
    wanted |= {(metric, f"${{{name}}}") for name in functions(template) for metric in AWS_METRICS["AWS/Lambda"]}
    wanted |= {
        (metric, f"${{{name}}}")
        for name in resources(template, "AWS::Serverless::HttpApi")
        for metric in AWS_METRICS["AWS/ApiGateway"]
    }
    seen = {(metric.name, metric.dimensions[-1]) for metric in shown(template, "true")}
    return [f"{name} of {target}" for name, target in sorted(wanted - seen)]


def dashboard_shows_what_the_handlers_count(template: Template) -> list[str]:
    """Of each kind of trouble that they count, and of their work."""
    wanted = {
        *("Documents", "Tokens", "Truncated", "MessagesFailed", "PoisonItems", "DeadLettered", "ColdStart"),
        *("CacheHits", "CacheMisses", "CacheErrors", "CacheBreakerOpen", "Texts", "RerankRequests"),
    }
    return sorted(wanted - {metric.name for metric in shown(template, "true") if metric.namespace == "Embakery"})


def shown(template: Template, fifo: str) -> list[Metric]:
    """Every line of every graph, its dots filled in from the line before."""
    return [metric for widget in _widgets(template, fifo) for metric in _lines(widget["properties"]["metrics"])]


def recorded_metrics() -> set[str]:
    """The names that the handlers give to Powertools: the keys of what goes to `record`."""
    found = {"ColdStart"}
    for path in sorted((ROOT / "handlers").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                keys = (key.value for key in node.keys if isinstance(key, ast.Constant))
                found |= {key for key in keys if isinstance(key, str) and key[:1].isupper() and key.isalnum()}
    return found


def pattern(value: Any) -> str:
    """A value as it stands in Fn::Sub."""
    return str(value["Fn::Sub"]) if isinstance(value, dict) else str(value)


def _lines(rows: list[list[Any]]) -> Iterator[Metric]:
    before: list[str] = []
    for row in rows:
        words = [word for word in row if isinstance(word, str)]
        known = [*before, *words[len(before) :]]
        before = [known[place] if word == "." else word for place, word in enumerate(words)]
        yield Metric(before[0], before[1], tuple(before[2:]))


def _widgets(template: Template, fifo: str) -> list[dict[str, Any]]:
    """The dashboard's widgets; a name that Fn::Sub would fill in stays in its braces. Raises ValueError."""
    (dashboard,) = resources(decide(template, {"WithFifoQueue": fifo}), "AWS::CloudWatch::Dashboard").values()
    body, own = dashboard["DashboardBody"]["Fn::Sub"]
    for name in set(placeholders(body)) & set(own):
        body = body.replace(f"${{{name}}}", pattern(own[name]))
    widgets = json.loads(body)["widgets"]
    assert isinstance(widgets, list)
    return widgets


INVARIANTS: tuple[Invariant, ...] = (
    dashboard_is_json,
    dashboard_shows_metrics_that_exist,
    dashboard_shows_every_queue_and_function,
    dashboard_shows_what_the_handlers_count,
)
