"""The ASGI application of the control API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from madang import __version__
from madang.api import grants, jobs, upkeep, usage
from madang.api.body import Guard, advice, error_body
from madang.api.desk import Desk, Needs
from madang.api.routes import router
from madang.errors import MadangError, NotFound, Rejected, Unavailable, lacking, why
from madang.traffic.front import Front

OPEN = frozenset({
    "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/assets", "/docs/oauth2-redirect",
})  # fmt: skip
"""The only routes that answer without a key: health, the documentation and its schema."""


def build(desk: Desk, front: Front | None = None) -> FastAPI:
    """Return the application; a route that nobody guards ends the start.

    `front` holds the names by which it is called, beside loopback.
    """
    app: FastAPI = FastAPIOffline(
        title="Madang",
        version=__version__,
        docs_url="/docs",
        static_url="/docs/assets",
        redoc_url=None,
        description="The control API. Applications call the gateway, under /v1 of its own port.",
    )
    app.state.desk = desk
    app.add_middleware(Guard, front=front or Front())
    app.add_exception_handler(MadangError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(OSError, _short)
    app.add_exception_handler(MemoryError, _short)
    app.add_exception_handler(RuntimeError, _short)
    app.include_router(jobs.router)
    app.include_router(usage.router)
    app.include_router(grants.router)
    app.include_router(upkeep.router)  # before the routes that take any kind
    app.include_router(router)
    app.get("/healthz", summary="Is the process there?")(healthz)
    app.get("/readyz", summary="Is the world read and a node in sight?")(readyz)
    check_guarded(app)
    return app


async def healthz() -> dict[str, str]:
    """Answer."""
    return {"status": "ok"}


async def readyz(request: Request) -> dict[str, Any]:
    """Answer once the world is read and the node is in sight."""
    desk: Desk = request.app.state.desk
    if not desk.observer.seen().nodes:
        raise Unavailable("control.not-ready")
    return {"ready": True, "term": desk.world.term, "revision": desk.world.revision}


def every_route(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield all routes, those of the routers in it too: FastAPI keeps these by themselves."""
    for route in routes:
        inside = getattr(route, "original_router", None)
        yield from every_route(inside.routes) if inside else (route,)


def check_guarded(app: FastAPI) -> None:
    """Refuse to start with a route that does not say what it needs of its caller."""
    for route in every_route(app.routes):
        guards = route.dependant.dependencies if isinstance(route, APIRoute) else ()
        guarded = any(isinstance(guard.call, Needs) for guard in guards)
        path = getattr(route, "path", "")
        assert guarded or path in OPEN, f"{path or route!r} does not say what it needs"


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, MadangError)
    body = error_body(error, request.scope)
    return JSONResponse(body, error.http_status, dict(advice(error)))


async def _short(request: Request, error: Exception) -> Response:
    """Refuse for the time being what we have no open file or memory for; the rest is a mistake."""
    if not (told := lacking(error)):
        raise error
    return await _known(request, told)


async def _invalid(request: Request, error: Exception) -> Response:
    """Name the first thing that is wrong with a request."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    rejected = Rejected("api.value", "", key=where, **why(first))
    return JSONResponse(error_body(rejected, request.scope), 400)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if told := lacking(error.__cause__):  # FastAPI blames the body
        return await _known(request, told)
    if error.status_code == 404:
        wrong: MadangError = NotFound("api.no-such-path", path=request.url.path)
    elif error.status_code == 405:
        wrong = Rejected("api.no-such-method", method=request.method, path=request.url.path)
    else:
        wrong = Rejected("api.http", status=error.status_code, cause=str(error.detail))
    headers = dict(error.headers or {})
    return JSONResponse(error_body(wrong, request.scope), error.status_code, headers)
