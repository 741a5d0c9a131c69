"""template.yaml holds every invariant, and every invariant notices the change that it is there for."""

from __future__ import annotations

import json

import invariants_access
import invariants_cache
import invariants_dashboard
import invariants_data
import invariants_queue
import invariants_watch
import mutations_access
import mutations_cache
import mutations_data
import mutations_queue
import mutations_watch
import pytest
from mutation import Mutation
from template_source import Invariant, functions, load_template, resources, sources

INVARIANTS = (
    *invariants_queue.INVARIANTS,
    *invariants_watch.INVARIANTS,
    *invariants_dashboard.INVARIANTS,
    *invariants_access.INVARIANTS,
    *invariants_data.INVARIANTS,
    *invariants_cache.INVARIANTS,
)
MUTATIONS = (
    *mutations_queue.MUTATIONS,
    *mutations_watch.MUTATIONS,
    *mutations_access.MUTATIONS,
    *mutations_data.MUTATIONS,
    *mutations_cache.MUTATIONS,
)


@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda invariant: invariant.__name__)
def test_the_template_holds(invariant: Invariant) -> None:
    assert invariant(load_template()) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_change_for_the_worse_is_noticed(mutation: Mutation) -> None:
    template = load_template()
    mutation.apply(template)
    assert mutation.breaks(template) != []


def test_every_invariant_has_a_change_that_it_notices() -> None:
    assert {mutation.breaks for mutation in MUTATIONS} == set(INVARIANTS)


def test_visibility_timeout_is_no_longer_than_needed() -> None:
    assert resources(load_template(), "AWS::SQS::Queue")["DocumentsQueue"]["VisibilityTimeout"] == 6 * 120 + 60
    assert resources(load_template(), "AWS::SQS::Queue")["DocumentsFifoQueue"]["VisibilityTimeout"] == 6 * 120


def test_destinations_are_json_after_substitution() -> None:
    template = load_template()
    source = functions(template)["QueueFunction"]["Environment"]["Variables"]["EMBAKERY_DESTINATIONS"]["Fn::Sub"]
    url = "https://sqs.us-east-1.amazonaws.com/123456789012/results"
    names = {"${ResultsBucket}": "bucket", "${ResultsTable}": "table", "${ResultsQueue}": url}
    for placeholder, value in names.items():
        source = source.replace(placeholder, value)
    assert json.loads(source) == {
        "default": "s3://bucket/results/",
        "table": "dynamodb://table",
        "queue": f"sqs+{url}",
    }


def test_access_log_is_json_without_bodies() -> None:
    settings = resources(load_template(), "AWS::Serverless::HttpApi")["HttpApi"]["AccessLogSettings"]
    assert set(json.loads(settings["Format"])) == {
        "requestId", "time", "route", "status", "latency_ms", "response_bytes", "error",
    }  # fmt: skip


def test_routes_are_those_of_the_handler() -> None:
    routes = sources(functions(load_template())["ApiFunction"], "HttpApi").values()
    assert {f"{route['Method']} {route['Path']}" for route in routes} == {
        "POST /v1/embeddings",
        "POST /v1/rerank",
        "GET /health",
        "GET /v1/models",
    }
