"""What must hold for the queues that feed functions.

Each function returns what breaks it, one line a finding; none means that it holds.
"""

from __future__ import annotations

from template_source import (
    Invariant,
    Template,
    bounds,
    branches,
    dead_letter_queue,
    denies_plain_text,
    fed_queues,
    functions,
    referred,
    resources,
    sources,
    statements,
)

FOURTEEN_DAYS = 14 * 24 * 3600
MIB = 2**20


def visibility_covers_six_tries_and_the_window(template: Template) -> list[str]:
    """Lambda retries a throttled batch up to six timeouts long; a message must stay hidden meanwhile."""
    broken = []
    for name, function in functions(template).items():
        for source in sources(function, "SQS").values():
            queue = referred(source["Queue"]) or ""
            needed = 6 * function["Timeout"] + bounds(template, source.get("MaximumBatchingWindowInSeconds", 0))[1]
            visible = resources(template, "AWS::SQS::Queue")[queue].get("VisibilityTimeout", 30)
            if visible < needed:
                broken.append(f"{queue}: VisibilityTimeout {visible} < {needed}, needed by {name}")
    return broken


def messages_are_tried_ten_times(template: Template) -> list[str]:
    """Throttles and kills by batch mates count as receives: three killers in a batch of ten may take eight."""
    policies = {name: queue["RedrivePolicy"] for name, queue in fed_queues(template) if "RedrivePolicy" in queue}
    missing = [f"{name}: no RedrivePolicy" for name, _ in fed_queues(template) if name not in policies]
    few = [f"{name}: maxReceiveCount" for name, policy in policies.items() if policy["maxReceiveCount"] < 10]
    return missing + few


def failures_are_reported_by_item(template: Template) -> list[str]:
    """Without ReportBatchItemFailures, Lambda deletes the messages that the handler reported as failed."""
    every = [source for function in functions(template).values() for source in sources(function, "SQS").items()]
    return [name for name, source in every if source.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]]


def concurrency_fits_the_reservation(template: Template) -> list[str]:
    """A poller that may start more instances than are reserved is throttled, which uses up receives."""
    broken = []
    for name, function in functions(template).items():
        for reserved in branches(function.get("ReservedConcurrentExecutions")):
            for source in sources(function, "SQS").values():
                most = source.get("ScalingConfig", {}).get("MaximumConcurrency")
                if most is None or (most != reserved and bounds(template, most)[1] > bounds(template, reserved)[0]):
                    broken.append(f"{name}: MaximumConcurrency {most} does not fit in {reserved}")
    return broken


def concurrency_is_bounded(template: Template) -> list[str]:
    """Without a maximum, a full queue takes the account's whole concurrency."""
    every = [source for function in functions(template).values() for source in sources(function, "SQS").items()]
    return [name for name, source in every if "MaximumConcurrency" not in source.get("ScalingConfig", {})]


def queues_are_encrypted(template: Template) -> list[str]:
    """Said in the template, not left to the region's default."""
    return [
        name
        for name, queue in resources(template, "AWS::SQS::Queue").items()
        if queue.get("SqsManagedSseEnabled") is not True
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
    concurrency_fits_the_reservation,
    concurrency_is_bounded,
    queues_are_encrypted,
    queues_take_a_mebibyte,
    queues_refuse_plain_text,
    dead_letters_are_kept_longest,
    dead_letter_queue_takes_its_source_only,
)
