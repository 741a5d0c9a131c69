"""What must hold for alarms and logs.

Each function returns what breaks it, one line a finding; none means that it holds.
"""

from __future__ import annotations

from typing import Any

from template_source import (
    Invariant,
    Resource,
    Template,
    branches,
    dead_letter_queue,
    fed_queues,
    functions,
    referred,
    resources,
)


def dead_letters_raise_an_alarm(template: Template) -> list[str]:
    """On visible messages: NumberOfMessagesSent stays 0 for messages that a redrive policy moves."""
    dead = {dead_letter_queue(queue) for _, queue in fed_queues(template)}
    watched = _watched(template, "ApproximateNumberOfMessagesVisible", "QueueName", above=0)
    return sorted(dead - watched)


def old_messages_raise_an_alarm(template: Template) -> list[str]:
    """Later than one failed try takes, or every retry would be an alarm."""
    broken = []
    for name, queue in fed_queues(template):
        alarms = _alarms(template, "ApproximateAgeOfOldestMessage", "QueueName", name)
        if not any(alarm["Threshold"] > queue["VisibilityTimeout"] for alarm in alarms):
            broken.append(name)
    return broken


def function_errors_raise_an_alarm(template: Template) -> list[str]:
    """Errors count what the handlers raise, timeouts and kills."""
    return sorted(set(functions(template)) - _watched(template, "Errors", "FunctionName", above=0))


def throttles_raise_an_alarm(template: Template) -> list[str]:
    """A throttled batch uses up receives, a throttled caller is sent away."""
    return sorted(set(functions(template)) - _watched(template, "Throttles", "FunctionName", above=0))


def http_errors_raise_an_alarm(template: Template) -> list[str]:
    """The handler answers its own failures: they are no errors of the function."""
    apis = resources(template, "AWS::Serverless::HttpApi")
    return [name for name in apis if not _alarms(template, "5xx", "ApiId", name)]


def doing_without_the_cache_raises_an_alarm(template: Template) -> list[str]:
    """In either function: to callers, a cache that is given up looks like one that is slow."""
    asked = [
        entry["MetricStat"]["Metric"]
        for alarm in resources(template, "AWS::CloudWatch::Alarm").values()
        for entry in alarm.get("Metrics", [])
        if "MetricStat" in entry
    ]
    watched = [
        metric["Dimensions"][0]["Value"]
        for metric in asked
        if metric["Namespace"] == "Embakery" and metric["MetricName"] == "CacheBreakerOpen"
    ]
    return [name for name, service in services(template).items() if service not in watched]


def alarms_notify(template: Template) -> list[str]:
    """Every alarm goes to the topic where one is given, and silence is no alarm."""
    every = resources(template, "AWS::CloudWatch::Alarm").items()
    return [
        name
        for name, alarm in every
        if branches(alarm.get("AlarmActions")) != [[{"Ref": "AlarmTopicArn"}]]
        or alarm.get("TreatMissingData") != "notBreaching"
    ]


def logs_expire(template: Template) -> list[str]:
    """A log group without retention keeps its events for ever."""
    return [
        name for name, group in resources(template, "AWS::Logs::LogGroup").items() if "RetentionInDays" not in group
    ]


def functions_log_to_groups_of_the_template(template: Template) -> list[str]:
    """Otherwise Lambda makes a group of its own, without retention."""
    groups = set(resources(template, "AWS::Logs::LogGroup"))
    every = functions(template).items()
    return [
        name for name, function in every if referred(function.get("LoggingConfig", {}).get("LogGroup")) not in groups
    ]


def services(template: Template) -> dict[str, Any]:
    """The `service` dimension of each function's metrics, by the function's logical id."""
    every = functions(template).items()
    return {name: function["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] for name, function in every}


def _alarms(template: Template, metric: str, dimension: str, name: str) -> list[Resource]:
    """The alarms on one metric of one resource."""
    return [
        alarm
        for alarm in resources(template, "AWS::CloudWatch::Alarm").values()
        if alarm.get("MetricName") == metric and alarm["ComparisonOperator"] == "GreaterThanThreshold"
        for entry in alarm["Dimensions"]
        if entry["Name"] == dimension and referred(entry["Value"]) == name
    ]


def _watched(template: Template, metric: str, dimension: str, *, above: int) -> set[str]:
    """The resources with an alarm on a metric at exactly this threshold."""
    return {
        name
        for name in template["Resources"]
        for alarm in _alarms(template, metric, dimension, name)
        if alarm["Threshold"] == above
    }


INVARIANTS: tuple[Invariant, ...] = (
    dead_letters_raise_an_alarm,
    old_messages_raise_an_alarm,
    function_errors_raise_an_alarm,
    throttles_raise_an_alarm,
    http_errors_raise_an_alarm,
    doing_without_the_cache_raises_an_alarm,
    alarms_notify,
    logs_expire,
    functions_log_to_groups_of_the_template,
)
