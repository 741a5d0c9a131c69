"""The synchronous API: API Gateway HTTP API events in, responses out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from embakery.errors import EmbakeryError, InvalidRequestError, NotFoundError
from embakery.rounds import Deadline
from handlers import routes
from handlers.deadline import ContextDeadline
from handlers.http import Json, Request, check_event, respond, respond_error
from handlers.services import Services, services
from handlers.telemetry import logger, metrics, record, refusals_recorded

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

Route = Callable[[Request, Services, Deadline], Json]

ROUTES: dict[tuple[str, str], Route] = {
    ("POST", "/v1/embeddings"): routes.embeddings,
    ("POST", "/v1/rerank"): routes.rerank,
    ("GET", "/v1/models"): routes.models,
    ("GET", "/health"): routes.health,
}


def prepare() -> None:
    """Load what every request needs. Raises what `services` raises."""
    services()


# log_event=False: no environment variable may put texts into the log.
@logger.inject_lambda_context(clear_state=True, log_event=False)
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: LambdaContext) -> Json:
    """Answer one request. Raises InvalidRequestError for an event that is none: nobody waits for an HTTP response."""
    with refusals_recorded():
        check_event(event)
    record({"Requests": 1})
    try:
        request = Request.from_event(event)
        return respond(_route(request)(request, services(), ContextDeadline.of(context)))
    except InvalidRequestError as error:
        return respond_error(error)
    except EmbakeryError as error:
        logger.error("request_failed", extra={"code": error.code, "reason": str(error)})
        return respond_error(error)


def _route(request: Request) -> Route:
    route = ROUTES.get((request.method, request.path))
    if route is None:
        known = ", ".join(f"{method} {path}" for method, path in ROUTES)
        raise NotFoundError("", f"no such route; there are {known}")
    return route
