"""Changes for the worse to alarms, logs and the dashboard."""

from __future__ import annotations

from typing import Any

import invariants_dashboard as dashboard
import invariants_watch as watch
from mutation import GONE, Mutation
from template_source import load_template

BODY = "Dashboard/Properties/DashboardBody/Fn::Sub"


def shown_otherwise(breaks: Any, old: str, new: str) -> Mutation:
    """The dashboard with another text in it. Raises ValueError where the old one is not."""
    body: str = load_template()["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"][0]
    body.index(old)
    return Mutation(breaks, f"{BODY}/0", body.replace(old, new, 1))


MUTATIONS = [
    Mutation(watch.dead_letters_raise_an_alarm, "DeadLettersAlarm", GONE),
    Mutation(watch.dead_letters_raise_an_alarm, "DeadLettersAlarm/Properties/MetricName", "NumberOfMessagesSent"),
    Mutation(watch.dead_letters_raise_an_alarm, "DeadLettersAlarm/Properties/Threshold", 1),
    Mutation(
        watch.dead_letters_raise_an_alarm,
        "DeadLettersAlarm/Properties/Dimensions/0/Value",
        {"Fn::GetAtt": ["DocumentsQueue", "QueueName"]},
    ),
    Mutation(watch.old_messages_raise_an_alarm, "DocumentsAgeAlarm", GONE),
    Mutation(watch.old_messages_raise_an_alarm, "DocumentsAgeAlarm/Properties/Threshold", 780),
    Mutation(watch.function_errors_raise_an_alarm, "QueueErrorsAlarm", GONE),
    Mutation(watch.function_errors_raise_an_alarm, "ApiErrorsAlarm", GONE),
    Mutation(watch.alarms_notify, "ApiErrorsAlarm/Properties/AlarmActions", GONE),
    Mutation(watch.logs_expire, "QueueLogGroup/Properties/RetentionInDays", GONE),
    Mutation(watch.logs_expire, "HttpApiLogGroup/Properties/RetentionInDays", GONE),
    Mutation(watch.functions_log_to_groups_of_the_template, "ApiFunction/Properties/LoggingConfig", GONE),
    Mutation(watch.functions_log_to_groups_of_the_template, "ApiLogGroup", GONE),
    Mutation(watch.dead_letters_raise_an_alarm, "DeadLettersFifoAlarm", GONE),
    Mutation(watch.old_messages_raise_an_alarm, "DocumentsFifoAgeAlarm/Properties/Threshold", 720),
    Mutation(watch.throttles_raise_an_alarm, "QueueThrottlesAlarm", GONE),
    Mutation(
        watch.throttles_raise_an_alarm, "ApiThrottlesAlarm/Properties/Dimensions/0/Value", {"Ref": "QueueFunction"}
    ),
    Mutation(watch.http_errors_raise_an_alarm, "ApiServerErrorsAlarm", GONE),
    Mutation(watch.http_errors_raise_an_alarm, "ApiServerErrorsAlarm/Properties/MetricName", "5XXError"),
    Mutation(watch.doing_without_the_cache_raises_an_alarm, "CacheBreakerAlarm", GONE),
    Mutation(watch.doing_without_the_cache_raises_an_alarm, "CacheBreakerAlarm/Properties/Metrics/2", GONE),
    Mutation(
        watch.doing_without_the_cache_raises_an_alarm,
        "QueueFunction/Properties/Environment/Variables/POWERTOOLS_SERVICE_NAME",
        "embakery",
    ),
    Mutation(watch.alarms_notify, "CacheBreakerAlarm/Properties/TreatMissingData", GONE),
    Mutation(watch.logs_expire, "ApiLogGroup/Properties/RetentionInDays", GONE),
    shown_otherwise(dashboard.dashboard_is_json, '{"widgets": [', '{"widgets": [,'),
    shown_otherwise(dashboard.dashboard_is_json, '"x": 8, "y": 0', '"x": 0, "y": 0'),
    shown_otherwise(dashboard.dashboard_is_json, '"x": 16, "y": 0', '"x": 17, "y": 0'),
    Mutation(dashboard.dashboard_is_json, f"{BODY}/1/FifoAge/Fn::If/2", ","),
    Mutation(dashboard.dashboard_is_json, f"{BODY}/1/FifoDepth/Fn::If/1", {"Fn::Sub": "x"}),
    shown_otherwise(dashboard.dashboard_shows_metrics_that_exist, '"Documents"', '"Document"'),
    shown_otherwise(dashboard.dashboard_shows_metrics_that_exist, '"5xx"', '"5XXError"'),
    shown_otherwise(dashboard.dashboard_shows_metrics_that_exist, '"function_name", "${QueueFunction}", ', ""),
    Mutation(
        dashboard.dashboard_shows_metrics_that_exist,
        "ApiFunction/Properties/Environment/Variables/POWERTOOLS_SERVICE_NAME",
        "embakery-api",
    ),
    shown_otherwise(dashboard.dashboard_shows_every_queue_and_function, '"Throttles"', '"Errors"'),
    shown_otherwise(dashboard.dashboard_shows_every_queue_and_function, "${DeadLetterQueue.", "${ResultsQueue."),
    Mutation(dashboard.dashboard_shows_every_queue_and_function, f"{BODY}/1/FifoDeadLetters/Fn::If/1", ""),
    shown_otherwise(dashboard.dashboard_shows_what_the_handlers_count, '"PoisonItems"', '"HandedToBulk"'),
    shown_otherwise(dashboard.dashboard_shows_what_the_handlers_count, '"Truncated"', '"Documents"'),
]
