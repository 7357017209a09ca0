"""The application: middleware, handlers and the state of the worker, put together."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles

from tipr_jax import __version__
from tipr_jax.serving import api
from tipr_jax.serving.access import Guard, Keys
from tipr_jax.serving.answers import Headers, refusal
from tipr_jax.serving.audit import AuditLog
from tipr_jax.serving.limits import BodyLimit
from tipr_jax.serving.measures import Measures, Timed
from tipr_jax.serving.page import routes
from tipr_jax.serving.service import Service
from tipr_jax.serving.worker import Worker

STATIC = Path(routes.__file__).with_name("static")


def make_app(worker: Worker, measures: Measures, keys: Keys, audit: AuditLog) -> FastAPI:
    """The service of a worker that has been started; it is stopped when the application ends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.service.close()

    # FastAPI's pages of documentation load scripts from another host.
    app = FastAPI(
        title="tipr_jax",
        description="Search for people by what they look like.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service, app.state.keys = Service(worker, audit), keys
    app.include_router(api.router)
    app.include_router(routes.router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    _add_health(app, worker, measures)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimit)
    app.add_middleware(Guard, keys=keys)
    app.add_middleware(Headers)
    app.add_middleware(Timed, measures=measures)
    return app


def _add_health(app: FastAPI, worker: Worker, measures: Measures) -> None:
    """For whoever starts and watches the service: alive, ready, figures."""

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return PlainTextResponse("alive\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        problem = worker.problem
        return PlainTextResponse(f"{problem or 'ready'}\n", 503 if problem else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return PlainTextResponse(measures.text(), media_type="text/plain; version=0.0.4")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(request, error.status_code, str(error.detail), error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """A request with a field that cannot be: the first one is named, its value not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"][1:])) or "the request"
    return refusal(request, 422, f"{place}: {first['msg'].removeprefix('Value error, ')}")
