"""Changes for the worse to the queues."""

from __future__ import annotations

import invariants_queue as queue
from mutation import GONE, Mutation

DOCUMENTS = "QueueFunction/Properties/Events/Documents/Properties"
FIFO = "DocumentsFifoMapping/Properties"
QUEUES = ("DocumentsQueue", "DeadLetterQueue", "DocumentsFifoQueue", "DeadLetterFifoQueue", "ResultsQueue", "BulkQueue")
DENIAL = "PolicyDocument/Statement/0"

MUTATIONS = [
    Mutation(queue.visibility_covers_six_tries_and_the_window, "DocumentsQueue/Properties/VisibilityTimeout", 779),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "DocumentsQueue/Properties/VisibilityTimeout", GONE),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "QueueFunction/Properties/Timeout", 121),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "/Parameters/BatchingWindowSeconds/MaxValue", 61),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "/Parameters/BatchingWindowSeconds/MaxValue", GONE),
    Mutation(queue.messages_are_tried_ten_times, "DocumentsQueue/Properties/RedrivePolicy/maxReceiveCount", 9),
    Mutation(queue.messages_are_tried_ten_times, "DocumentsQueue/Properties/RedrivePolicy", GONE),
    Mutation(queue.failures_are_reported_by_item, f"{DOCUMENTS}/FunctionResponseTypes", GONE),
    Mutation(queue.failures_are_reported_by_item, f"{DOCUMENTS}/FunctionResponseTypes", []),
    Mutation(queue.concurrency_fits_the_reservation, "QueueFunction/Properties/ReservedConcurrentExecutions", 5),
    Mutation(queue.concurrency_fits_the_reservation, f"{DOCUMENTS}/ScalingConfig", GONE),
    Mutation(queue.concurrency_fits_the_reservation, f"{DOCUMENTS}/ScalingConfig/MaximumConcurrency", 1001),
    Mutation(queue.concurrency_is_bounded, f"{DOCUMENTS}/ScalingConfig", GONE),
    *(
        Mutation(queue.queues_are_encrypted, f"{name}/Properties/{property_}", value)
        for name in QUEUES
        for property_ in ("SqsManagedSseEnabled", "KmsMasterKeyId")
        for value in (GONE, True)
    ),
    *(Mutation(queue.queues_take_a_mebibyte, f"{name}/Properties/MaximumMessageSize", 262144) for name in QUEUES),
    *(Mutation(queue.queues_refuse_plain_text, f"{name}Policy", GONE) for name in QUEUES),
    *(Mutation(queue.queues_refuse_plain_text, f"{name}Policy/Properties/Queues", []) for name in QUEUES),
    *(Mutation(queue.queues_refuse_plain_text, f"{name}Policy/Properties/{DENIAL}/Condition", {}) for name in QUEUES),
    *(Mutation(queue.queues_refuse_plain_text, f"{name}Policy/Properties/{DENIAL}/Effect", "Allow") for name in QUEUES),
    Mutation(
        queue.queues_refuse_plain_text,
        f"ResultsQueuePolicy/Properties/{DENIAL}/Resource",
        {"Fn::GetAtt": ["DocumentsQueue", "Arn"]},
    ),
    Mutation(queue.dead_letters_are_kept_longest, "DeadLetterQueue/Properties/MessageRetentionPeriod", 345600),
    Mutation(queue.dead_letters_are_kept_longest, "DocumentsQueue/Properties/MessageRetentionPeriod", 1209600),
    Mutation(queue.dead_letter_queue_takes_its_source_only, "DocumentsQueue/Properties/QueueName", GONE),
    Mutation(
        queue.dead_letter_queue_takes_its_source_only,
        "DocumentsQueue/Properties/QueueName",
        {"Fn::Sub": "${AWS::StackName}-papers"},
    ),
    Mutation(
        queue.dead_letter_queue_takes_its_source_only,
        "DeadLetterQueue/Properties/RedriveAllowPolicy/redrivePermission",
        "allowAll",
    ),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "DocumentsFifoQueue/Properties/VisibilityTimeout", 719),
    Mutation(queue.messages_are_tried_ten_times, "DocumentsFifoQueue/Properties/RedrivePolicy/maxReceiveCount", 5),
    Mutation(queue.failures_are_reported_by_item, f"{FIFO}/FunctionResponseTypes", GONE),
    Mutation(queue.concurrency_is_bounded, f"{FIFO}/ScalingConfig", GONE),
    Mutation(queue.concurrency_fits_the_reservation, f"{FIFO}/ScalingConfig/MaximumConcurrency", 1000),
    Mutation(
        queue.concurrency_fits_the_reservation,
        "QueueFunction/Properties/ReservedConcurrentExecutions/Fn::If/1",
        {"Ref": "MaximumConcurrency"},
    ),
    Mutation(queue.concurrency_fits_the_reservation, "/Mappings/Concurrency/75/TwoQueues", 149),
    Mutation(queue.concurrency_fits_the_reservation, "/Parameters/MaximumConcurrency/AllowedValues", GONE),
    Mutation(queue.batches_are_of_a_size_that_lambda_takes, f"{FIFO}/BatchSize", 11),
    Mutation(queue.batches_are_of_a_size_that_lambda_takes, f"{FIFO}/BatchSize", {"Ref": "BatchSize"}),
    Mutation(queue.batches_are_of_a_size_that_lambda_takes, f"{FIFO}/MaximumBatchingWindowInSeconds", 0),
    Mutation(queue.batches_are_of_a_size_that_lambda_takes, f"{DOCUMENTS}/MaximumBatchingWindowInSeconds", GONE),
    Mutation(queue.batches_are_of_a_size_that_lambda_takes, "/Parameters/BatchingWindowSeconds/MinValue", 0),
    Mutation(queue.fifo_queues_are_whole, "DeadLetterFifoQueue/Properties/FifoQueue", GONE),
    Mutation(queue.fifo_queues_are_whole, "DocumentsFifoQueue/Properties/FifoThroughputLimit", "perQueue"),
    Mutation(queue.fifo_queues_are_whole, "DocumentsFifoQueue/Properties/DeduplicationScope", GONE),
    Mutation(queue.fifo_queues_are_whole, "DocumentsFifoQueue/Properties/ContentBasedDeduplication", True),
    Mutation(
        queue.fifo_queues_are_whole, "DocumentsFifoQueue/Properties/QueueName", {"Fn::Sub": "${AWS::StackName}-d"}
    ),
    Mutation(queue.dead_letters_are_kept_longest, "DeadLetterFifoQueue/Properties/MessageRetentionPeriod", GONE),
    Mutation(
        queue.dead_letter_queue_takes_its_source_only,
        "DeadLetterFifoQueue/Properties/RedriveAllowPolicy/sourceQueueArns/0",
        {"Fn::Sub": "arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:${AWS::StackName}-documents"},
    ),
]
