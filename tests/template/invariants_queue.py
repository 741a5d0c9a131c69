"""What must hold for the queues that feed functions.

Each function returns what breaks it, one line a finding; none means that it holds.
"""

from __future__ import annotations

from itertools import product

from intrinsics import decide, parameters, text
from template_source import (
    NO_VALUE,
    Invariant,
    Template,
    bounds,
    dead_letter_queue,
    denies_plain_text,
    fed_queues,
    feeds,
    functions,
    referred,
    resources,
    statements,
)

FOURTEEN_DAYS = 14 * 24 * 3600
MIB = 2**20


def visibility_covers_six_tries_and_the_window(template: Template) -> list[str]:
    """Lambda retries a throttled batch up to six timeouts long; a message must stay hidden meanwhile."""
    broken = []
    for feed in feeds(template):
        window = bounds(template, feed.properties.get("MaximumBatchingWindowInSeconds", 0))[1]
        needed = 6 * functions(template)[feed.function]["Timeout"] + window
        visible = resources(template, "AWS::SQS::Queue")[feed.queue].get("VisibilityTimeout", 30)
        if visible < needed:
            broken.append(f"{feed.queue}: VisibilityTimeout {visible} < {needed}, needed by {feed.function}")
    return broken


def messages_are_tried_ten_times(template: Template) -> list[str]:
    """Throttles and kills by batch mates count as receives: three killers in a batch of ten may take eight."""
    policies = {name: queue["RedrivePolicy"] for name, queue in fed_queues(template) if "RedrivePolicy" in queue}
    missing = [f"{name}: no RedrivePolicy" for name, _ in fed_queues(template) if name not in policies]
    few = [f"{name}: maxReceiveCount" for name, policy in policies.items() if policy["maxReceiveCount"] < 10]
    return missing + few


def failures_are_reported_by_item(template: Template) -> list[str]:
    """Without ReportBatchItemFailures, Lambda deletes the messages that the handler reported as failed."""
    wanted = ["ReportBatchItemFailures"]
    return [feed.name for feed in feeds(template) if feed.properties.get("FunctionResponseTypes") != wanted]


def concurrency_is_bounded(template: Template) -> list[str]:
    """Without a maximum, a full queue takes the account's whole concurrency."""
    return [
        feed.name for feed in feeds(template) if "MaximumConcurrency" not in feed.properties.get("ScalingConfig", {})
    ]


def concurrency_fits_the_reservation(template: Template) -> list[str]:
    """Pollers that may start more instances than are reserved are throttled, which uses up receives."""
    broken = []
    allowed = template["Parameters"]["MaximumConcurrency"].get("AllowedValues", [])
    for most, fifo in product(map(str, allowed), ("false", "true")):
        given = {"MaximumConcurrency": most, "WithFifoQueue": fifo, "ReserveQueueConcurrency": "true"}
        decided, values = decide(template, given), parameters(template, given)
        started: dict[str, int] = {}
        for feed in feeds(decided):
            scaling = feed.properties.get("ScalingConfig", {}).get("MaximumConcurrency", 1000)
            started[feed.function] = started.get(feed.function, 0) + int(text(template, scaling, values))
        for function, instances in started.items():
            reserved = functions(decided)[function].get("ReservedConcurrentExecutions", instances)
            if int(text(template, reserved, values)) < instances:
                broken.append(f"{function}: {instances} instances may be started, {given}")
    return broken if allowed else ["MaximumConcurrency: no list of values"]


def batches_are_of_a_size_that_lambda_takes(template: Template) -> list[str]:
    """Ten at most from a FIFO queue, which knows no window; above ten from another only with one."""
    broken = []
    for feed in feeds(template):
        fifo = resources(template, "AWS::SQS::Queue")[feed.queue].get("FifoQueue", False)
        most = bounds(template, feed.properties.get("BatchSize", 10))[1]
        window = feed.properties.get("MaximumBatchingWindowInSeconds")
        shortest = 0 if window is None else bounds(template, window)[0]
        if (fifo and (most > 10 or window is not None)) or (most > 10 and shortest < 1):
            broken.append(f"{feed.name}: BatchSize {most}, window from {shortest} s")
    return broken


def fifo_queues_are_whole(template: Template) -> list[str]:
    """Its dead-letter queue must be FIFO too, its name ends so, and senders must say themselves what is a duplicate."""
    queues, broken = resources(template, "AWS::SQS::Queue"), []
    for name, queue in fed_queues(template):
        fifo = queue.get("FifoQueue", False)
        ends_so = str(queue["QueueName"]["Fn::Sub"]).endswith(".fifo") if "QueueName" in queue else fifo
        speed = (queue.get("DeduplicationScope"), queue.get("FifoThroughputLimit"))
        alike = queues[dead_letter_queue(queue)].get("FifoQueue", False) == fifo
        if not alike or ends_so != fifo or (fifo and speed != ("messageGroup", "perMessageGroupId")):
            broken.append(name)
    return broken + [name for name, queue in queues.items() if queue.get("ContentBasedDeduplication")]


def queues_are_encrypted(template: Template) -> list[str]:
    """By SQS's own key or by the given one, and never said to be by both: SQS would refuse."""
    wanted = [{"Fn::If": ["UsesKey", False, True]}, {"Fn::If": ["UsesKey", {"Ref": "KmsKeyArn"}, NO_VALUE]}]
    return [
        name
        for name, queue in resources(template, "AWS::SQS::Queue").items()
        if [queue.get("SqsManagedSseEnabled"), queue.get("KmsMasterKeyId")] != wanted
    ]


def queues_take_a_mebibyte(template: Template) -> list[str]:
    """The largest message that SQS allows passes through all queues alike."""
    return [
        name for name, queue in resources(template, "AWS::SQS::Queue").items() if queue.get("MaximumMessageSize") != MIB
    ]


def queues_refuse_plain_text(template: Template) -> list[str]:
    """Each queue has a policy of its own that denies everything without TLS."""
    protected = set()
    for policy in resources(template, "AWS::SQS::QueuePolicy").values():
        protected |= {
            referred(queue)
            for queue in policy["Queues"]
            for statement in statements(policy)
            if denies_plain_text(statement, "sqs:*") and referred(statement["Resource"]) == referred(queue)
        }
    return [name for name in resources(template, "AWS::SQS::Queue") if name not in protected]


def dead_letters_are_kept_longest(template: Template) -> list[str]:
    """A standard queue's dead letters keep their first enqueue time, so they need more time than their source gives."""
    broken = []
    for name, queue in fed_queues(template):
        dead = resources(template, "AWS::SQS::Queue")[dead_letter_queue(queue)]
        kept = dead.get("MessageRetentionPeriod", 0)
        if kept != FOURTEEN_DAYS or queue.get("MessageRetentionPeriod", FOURTEEN_DAYS) >= kept:
            broken.append(f"{name}: its dead letters are kept {kept} s")
    return broken


def dead_letter_queue_takes_its_source_only(template: Template) -> list[str]:
    """The ARN in RedriveAllowPolicy is put together from the source's name: the two must agree."""
    broken = []
    for name, queue in fed_queues(template):
        allow = resources(template, "AWS::SQS::Queue")[dead_letter_queue(queue)].get("RedriveAllowPolicy", {})
        own_name = queue.get("QueueName", {}).get("Fn::Sub")
        arns = [f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{own_name}"]
        if allow.get("redrivePermission") != "byQueue" or [a["Fn::Sub"] for a in allow["sourceQueueArns"]] != arns:
            broken.append(f"{name}: RedriveAllowPolicy of its dead-letter queue")
    return broken


INVARIANTS: tuple[Invariant, ...] = (
    visibility_covers_six_tries_and_the_window,
    messages_are_tried_ten_times,
    failures_are_reported_by_item,
    concurrency_is_bounded,
    concurrency_fits_the_reservation,
    batches_are_of_a_size_that_lambda_takes,
    fifo_queues_are_whole,
    queues_are_encrypted,
    queues_take_a_mebibyte,
    queues_refuse_plain_text,
    dead_letters_are_kept_longest,
    dead_letter_queue_takes_its_source_only,
)
