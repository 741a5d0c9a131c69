"""Changes for the worse that show in what SAM makes of the template, or in some deployments only."""

from __future__ import annotations

import invariants_deployed as deployed
import rights
from mutation import GONE, Mutation

ALARM = "QueueVersionErrorsAlarm/Properties"
PREFERENCE = "QueueFunction/Properties/DeploymentPreference"
QUEUE_ROLE = "QueueFunctionRole/Properties/Policies/0/PolicyDocument/Statement"
API_ROLE = "ApiFunctionRole/Properties/Policies/0/PolicyDocument/Statement"
QUEUE_KEY = "QueueFunctionRole/Properties/Policies/2/Fn::If/1/PolicyDocument/Statement/0"
DESCRIPTION = "FunctionSettings/Properties/Description"

MUTATIONS = [
    Mutation(deployed.what_is_named_is_there, "DocumentsFifoMapping/Condition", GONE, "plain"),
    Mutation(deployed.what_is_named_is_there, "DocumentsFifoQueue/Condition", "UsesKey", "fifo"),
    Mutation(deployed.what_is_named_is_there, "/Outputs/CacheEndpoint/Condition", GONE, "redis"),
    Mutation(deployed.what_is_named_is_there, "CacheUser/Condition", "UsesKey", "created cache"),
    Mutation(
        deployed.what_is_named_is_there,
        "QueueFunctionRole/Properties/ManagedPolicyArns/2/Fn::If/0",
        "HasCache",
        "redis",
    ),
    Mutation(deployed.what_is_named_is_there, "Dashboard/DependsOn", "DocumentsFifoQueue", "plain"),
    Mutation(
        deployed.nothing_waits_for_itself,
        "CacheSecurityGroup/Properties/SecurityGroupIngress",
        [{"IpProtocol": "tcp", "SourceSecurityGroupId": {"Fn::GetAtt": ["Cache", "Endpoint.Address"]}}],
    ),
    Mutation(deployed.nothing_waits_for_itself, "DeadLetterQueue/DependsOn", "DocumentsQueue"),
    Mutation(
        deployed.nothing_waits_for_itself,
        "VpcPolicy/Properties/PolicyDocument/Statement/1/Condition/ArnLike/lambda:SourceFunctionArn",
        {"Fn::GetAtt": ["QueueFunction", "Arn"]},
    ),
    Mutation(deployed.nothing_waits_for_itself, f"{ALARM}/Dimensions/1/Value", {"Ref": "QueueFunction.Alias"}),
    Mutation(
        deployed.functions_are_called_by_their_alias,
        "DocumentsFifoMapping/Properties/FunctionName",
        {"Ref": "QueueFunction"},
    ),
    Mutation(
        deployed.functions_are_called_by_their_alias,
        "TopicPermission",
        {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": {"Ref": "QueueFunction"},
                "Principal": "sns.amazonaws.com",
            },
        },
    ),
    Mutation(deployed.aliases_are_shifted_by_codedeploy, PREFERENCE, GONE),
    Mutation(deployed.aliases_are_shifted_by_codedeploy, f"{PREFERENCE}/Role", GONE),
    Mutation(deployed.aliases_are_shifted_by_codedeploy, f"{PREFERENCE}/Alarms", GONE),
    Mutation(deployed.aliases_are_shifted_by_codedeploy, f"{PREFERENCE}/Enabled", False),
    Mutation(deployed.deployments_watch_the_new_version, f"{PREFERENCE}/Alarms/0", {"Ref": "QueueErrorsAlarm"}),
    Mutation(deployed.deployments_watch_the_new_version, f"{ALARM}/AlarmName", GONE),
    Mutation(deployed.deployments_watch_the_new_version, f"{ALARM}/Dimensions/2", GONE),
    Mutation(
        deployed.deployments_watch_the_new_version, f"{ALARM}/Dimensions/1/Value", {"Fn::Sub": "${QueueFunction}"}
    ),
    Mutation(
        deployed.failures_are_still_reported_by_item,
        "QueueFunction/Properties/Events/Documents/Properties/FunctionResponseTypes",
        GONE,
    ),
    Mutation(
        deployed.roles_are_ours,
        "ApiFunctionRole/Properties/ManagedPolicyArns/0",
        {"Fn::Sub": "arn:${AWS::Partition}:iam::aws:policy/AdministratorAccess"},
    ),
    Mutation(deployed.roles_are_ours, f"{PREFERENCE}/Role", GONE),
    Mutation(
        deployed.roles_are_taken_by_one_service,
        "DeploymentRole/Properties/AssumeRolePolicyDocument/Statement/0/Principal",
        {"AWS": "*"},
    ),
    Mutation(
        deployed.roles_are_taken_by_one_service,
        "ApiFunctionRole/Properties/AssumeRolePolicyDocument/Statement/0/Principal/Service",
        ["lambda.amazonaws.com", "ec2.amazonaws.com"],
    ),
    Mutation(deployed.settings_hold_a_value_for_each_place, "/Parameters/RedisUrl/MaxLength", 500),
    Mutation(deployed.settings_hold_a_value_for_each_place, "/Parameters/RedisUsername/MaxLength", GONE),
    Mutation(rights.rights_are_those_of_the_matrix, f"{API_ROLE}/1/Action", ["secretsmanager:PutSecretValue"]),
    Mutation(rights.rights_are_those_of_the_matrix, f"{QUEUE_ROLE}/2/Action/1", "sqs:PurgeQueue"),
    Mutation(rights.rights_are_those_of_the_matrix, f"{QUEUE_ROLE}/2", GONE),
    Mutation(rights.rights_are_those_of_the_matrix, f"{QUEUE_ROLE}/8/Resource", {"Fn::GetAtt": ["StateTable", "Arn"]}),
    Mutation(rights.rights_are_those_of_the_matrix, f"{QUEUE_KEY}/Action", ["kms:Decrypt"]),
    Mutation(rights.rights_are_those_of_the_matrix, "ApiFunctionRole/Properties/ManagedPolicyArns/1", GONE),
    Mutation(rights.rights_are_those_of_the_matrix, "QueueFunctionRole/Properties/Policies/1", GONE),
]
