"""The explorer's server: the answers of api.py as JSON, to a page on this machine alone."""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from wqkv.draw.phrases import PHRASES
from wqkv.errors import need
from wqkv.explorer import request as asks
from wqkv.explorer.api import QUICK, SLOW, Api
from wqkv.explorer.export import export
from wqkv.explorer.hosts import name, sent
from wqkv.explorer.jobs import Job, Jobs, Refused, Step, explained
from wqkv.explorer.ticket import Ticket
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair

need("starlette", "show", "The explorer")

from starlette.applications import Starlette  # noqa: E402  only after `need` has spoken
from starlette.exceptions import HTTPException  # noqa: E402
from starlette.requests import ClientDisconnect, Request  # noqa: E402
from starlette.responses import Response  # noqa: E402
from starlette.routing import Route  # noqa: E402
from starlette.types import ASGIApp, Receive, Scope, Send  # noqa: E402

#: The largest request, in bytes.
BODY = 2**20
#: Seconds that a slow answer is waited for before the page is told to ask for the job.
PATIENCE = 0.5
#: What the page may consist of.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
AGAIN = "Open the address that `wqkv open` printed."


def serve(
    model: OpenModel | OpenPair,
    text: str | None = None,
    *,
    target: str | None = None,
    source: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the explorer until Ctrl-C.

    Args:
        text: what the page opens with.
        target: what a model of two texts has written then; None lets it write.
        source: what `open_model` was called with.
        port: 0 takes a free one.
        ready: is told the page's address.
    """
    uvicorn: Any = need("uvicorn", "show", "The explorer")
    from wqkv.explorer.protocol import Prompt

    api = Api(model, source)
    api.fits(target)
    shown = name(host)
    family = socket.AF_INET6 if shown.startswith("[") else socket.AF_INET
    listening = socket.create_server((shown.strip("[]"), port), family=family)
    port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
    names = [f"{one}:{port}" for one in ("127.0.0.1", "localhost", "[::1]", shown)]
    served = app(api, token, names, text, target)
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(served, http=Prompt, ws="none", timeout_graceful_shutdown=2, **quiet)
    ready(f"http://{shown}:{port}/{token}/")
    uvicorn.Server(config).run(sockets=[listening])


def app(
    api: Api,
    token: str,
    hosts: Sequence[str],
    text: str | None = None,
    target: str | None = None,
) -> Starlette:
    """The page and its answers, below /{token}/.

    Args:
        hosts: what a request may call this server: "127.0.0.1:8000".
        text: what the page opens with.
        target: see `serve`.
    """
    served = _Served(api, text, target)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.close)

    async def astray(_: Request, error: Exception) -> Response:
        """An address or a method that no route has."""
        assert isinstance(error, HTTPException)
        return _refusal(Refused(error.status_code, "There is nothing here.", AGAIN))

    astrays = {HTTPException: astray}
    made = Starlette(routes=served.routes(), lifespan=life, exception_handlers=astrays)
    made.add_middleware(_Guard, token=token, hosts=frozenset(hosts))
    return made


class _Guard:
    """Lets pass what knows the token, means this server, and comes from its own page."""

    def __init__(self, inner: ASGIApp, token: str, hosts: frozenset[str]) -> None:
        self.inner, self.token, self.ticket = inner, token, Ticket(token)
        self.hosts = frozenset(map(sent, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
        elif scope["type"] == "http":
            try:
                inner = {**scope, "path": self._path(scope), "root_path": ""}
            except Refused as refused:
                answer = _refusal(refused)
                if self.ticket.use(scope):
                    answer = Response(None, 303, HEADERS | {"Location": f"/{self.token}/"})
                await answer(scope, receive, send)
            else:
                await self.inner(inner, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _path(self, scope: Scope) -> str:
        """The path below the token."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        token, slash, rest = scope["path"].removeprefix("/").partition("/")
        known = hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())
        if not (known and slash):  # without the slash the page would ask for its parts elsewhere
            raise Refused(404, "There is nothing here.", AGAIN)
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if sent(host) not in self.hosts:
            raise Refused(403, f"This server is not {host[:80]!r}.", AGAIN)
        scheme, _, page = (origin or f"http://{host}").partition("://")
        if scheme != "http" or sent(page) not in self.hosts:
            raise Refused(403, f"A page of {(origin or '')[:80]!r} may not ask here.", AGAIN)
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > BODY:
            raise _too_large(length)
        return f"/{rest}"


class _Served:
    """The addresses below the token."""

    def __init__(self, api: Api, text: str | None, target: str | None) -> None:
        self.api, self.jobs = api, Jobs()
        self.readers = ThreadPoolExecutor(2, "wqkv-reader")
        page = files("wqkv.explorer") / "page"
        self.files = {file.name: file for file in page.iterdir() if Path(file.name).suffix in TYPES}
        self.start = None if text is None else self._opening(text, target)

    def close(self) -> None:
        self.jobs.close()
        self.readers.shutdown()

    def routes(self) -> list[Route]:
        return [
            Route("/", _guarded(self.page)),
            Route("/page/{name}", _guarded(self.file)),
            Route("/api/model", _guarded(self.model)),
            Route("/api/open", _guarded(self.open), methods=["POST"]),
            Route("/api/jobs/{job}", _guarded(self.job)),
            Route("/api/jobs/{job}/cancel", _guarded(self.cancel), methods=["POST"]),
            Route("/api/views/{view}", _guarded(self.view)),
            Route("/api/views/{view}/whatif", _guarded(self.what_if), methods=["POST"]),
            Route("/api/views/{view}/generate", _guarded(self.generate), methods=["POST"]),
            Route("/api/views/{view}/export", _guarded(self.export)),
            Route("/api/views/{view}/{name}", _guarded(self.answer)),
        ]

    # The page

    async def page(self, _: Request) -> Response:
        return self._sent("open.html")

    async def file(self, request: Request) -> Response:
        return self._sent(request.path_params["name"])

    def _sent(self, name: str) -> Response:
        if name not in self.files:  # a name from a request never becomes a path
            raise Refused(404, f"The page has no file {name[:80]!r}.", "Load the page again.")
        text = self.files[name].read_bytes()
        return Response(text, 200, HEADERS, TYPES[Path(name).suffix])

    # The API

    async def model(self, _: Request) -> Response:
        return _json({**self.api.facts(), "start": self._started()})

    def _started(self) -> dict[str, str] | None:
        """The text that the page opens with, as a view once it is read; again, if it is gone."""
        if self.start is None:
            return None
        if self.start.state == "done":
            if self.api.has(view := self.start.result["view"]):
                return {"view": view}
            self.start = self.jobs.again(self.start)
        return {"job": self.start.id}

    async def open(self, request: Request) -> Response:
        body = await _body(request)
        text, target = asks.text(body.get("text")), body.get("target")
        target = None if target is None else asks.text(target, "target")
        return _json({"job": self._opening(text, target).id})

    def _opening(self, text: str, target: str | None) -> Job:
        def run(step: Step) -> dict[str, str]:
            return {"view": self.api.keep(self.api.open(text, step, target))}

        return self.jobs.start("open", run)

    async def job(self, request: Request) -> Response:
        return await self._soon(self._job(request).facts)

    async def cancel(self, request: Request) -> Response:
        self.jobs.cancel(self._job(request))
        return _json({})

    def _job(self, request: Request) -> Job:
        id = request.path_params["job"]
        job = self.start if self.start is not None and self.start.id == id else self.jobs.find(id)
        if job is None:
            raise Refused(404, "This work is not known any more.", "Ask for it again.")
        return job

    async def view(self, request: Request) -> Response:
        seen = self.api.seen(request.path_params["view"])
        return await self._soon(lambda: self.api.about(seen))

    async def answer(self, request: Request) -> Response:
        name, view = request.path_params["name"], request.path_params["view"]
        seen, ask = self.api.seen(view), asks.Ask(request.query_params)
        if name in QUICK:
            return await self._soon(lambda: QUICK[name](self.api, seen, ask, lambda *_: None))
        if name not in SLOW:
            raise Refused(404, f"There is no {name[:80]!r} of a text.", "Load the page again.")
        key = view, name, *sorted(request.query_params.items())
        job = self.jobs.start(name, lambda step: SLOW[name](self.api, seen, ask, step), key)
        end = time.monotonic() + PATIENCE
        while not job.ended.is_set() and time.monotonic() < end:
            await asyncio.sleep(0.004)
        if job.failure is not None:
            return _refusal(job.failure)
        if job.state == "done":
            return await self._soon(lambda: job.result)
        return _json({"job": job.id}, 202)

    async def what_if(self, request: Request) -> Response:
        seen, body = self.api.seen(request.path_params["view"]), await _body(request)
        off, edits = asks.changes(body)
        run = functools.partial(self.api.what_if, seen, off, edits)
        return _json({"job": self.jobs.start("whatif", run).id})

    async def generate(self, request: Request) -> Response:
        seen, body = self.api.seen(request.path_params["view"]), await _body(request)
        run = functools.partial(self.api.generate, seen, asks.amount(body))
        return _json({"job": self.jobs.start("generate", run).id})

    async def export(self, request: Request) -> Response:
        seen, ask = self.api.seen(request.path_params["view"]), asks.Ask(request.query_params)
        layer, head, token = ask.wholes("layer", "head", "token")
        seen.view.checked_layer(layer, head, token)
        lang = ask.choice("lang", "en", *PHRASES)

        def run(step: Step) -> str:
            return export(self.api, seen, (layer, head, token), lang, step)

        job = self.jobs.start("export", run)
        try:
            while not job.ended.is_set():
                await asyncio.sleep(0.05)
                if await request.is_disconnected():
                    self.jobs.cancel(job)
        finally:
            self.jobs.cancel(job)
        if job.failure is not None:
            return _refusal(job.failure)
        page = job.take()  # a large one
        name = {"Content-Disposition": f'attachment; filename="wqkv-{layer}-{head}-{token}.html"'}
        return Response(page, 200, HEADERS | name, TYPES[".html"])

    async def _soon(self, answer: Callable[[], Any]) -> Response:
        """An answer that takes milliseconds, beside whatever the worker does."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.readers, lambda: _json(answer()))


Handler = Callable[[Request], Awaitable[Response]]


def _guarded(handler: Handler) -> Handler:
    """Whatever goes wrong becomes an answer of two sentences, and the server goes on."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:
            return _refusal(explained(error))

    return answer


def _refusal(refused: Refused) -> Response:
    return _json({"error": refused.error, "do": refused.do}, refused.status)


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, HEADERS, "application/json")


def _too_large(length: str) -> Refused:
    wrong = f"The request has {length[:20]} bytes, and at most {BODY} are read."
    return Refused(413, wrong, "Send a shorter text.")


async def _body(request: Request) -> dict[str, Any]:
    """A request's JSON object."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > BODY:
            raise _too_large(f"more than {BODY}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        wrong = f"The request is no JSON ({type(error).__name__})."
        raise Refused(400, wrong, "Send a JSON object.") from None
    if not isinstance(value, dict):
        wrong = f"The request is {type(value).__name__}, not a JSON object."
        raise Refused(422, wrong, "Send a JSON object.")
    return value
