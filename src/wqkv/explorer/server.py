"""The explorer's server: sends the page, and the answers of api.py as JSON.

It answers only requests that know its secret, name it by a host of its own, and come from its own
page: other pages in the same browser can send requests to it too.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, cast

from wqkv.effects.records import GROUPS, By
from wqkv.errors import ArgumentError, need
from wqkv.explorer.api import Api, OpenView, TextAsked
from wqkv.explorer.export import export
from wqkv.explorer.hosts import canonical_address, canonical_host
from wqkv.explorer.jobs import Job, Jobs, Refused, refusal_of
from wqkv.explorer.matters import groups_that_matter, links_that_matter
from wqkv.explorer.numbers import OF_THE_MODEL, QUICK, SLOW
from wqkv.explorer.request import Body, Parameters
from wqkv.explorer.schema import Answer, PostedAnswer, ServedModel, StartFacts, WhatIfAnswer
from wqkv.explorer.ticket import Ticket
from wqkv.maps.link_map import HOWS, How
from wqkv.sentences import LANGUAGES
from wqkv.sentences.errors import mistake
from wqkv.sentences.usage import said_by_system
from wqkv.study.callbacks import Progress
from wqkv.study.opening import AnyModel
from wqkv.study.vision import DATA

#: An answer for which the model runs.
AnswerType = TypeVar("AnswerType", bound=Answer | PostedAnswer)

need("starlette", "show", mistake("explorer"))

from starlette.applications import Starlette  # noqa: E402  only after `need` has spoken
from starlette.exceptions import HTTPException  # noqa: E402
from starlette.requests import ClientDisconnect, Request  # noqa: E402
from starlette.responses import Response  # noqa: E402
from starlette.routing import Route  # noqa: E402
from starlette.types import ASGIApp, Receive, Scope, Send  # noqa: E402

#: How many bytes a request may have at most.
MAX_BYTES = 2**20
#: How many seconds a request waits for a slow answer before it is answered with the job's id.
PATIENCE = 0.5
#: The files that the page may consist of, by suffix.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
#: The page may load its own files and ask its own server alone, and no other page may show it in a
#: frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Of every answer: nothing of it is kept, given to other pages, or read as another type.
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN_AGAIN = "Open the address that `wqkv open` printed."


def serve(
    model: AnyModel,
    text: str | None = None,
    *,
    target: str | None = None,
    pair: str | None = None,
    picture: str | None = None,
    window: int = 0,
    source: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the explorer until Ctrl-C.

    Args:
        text: the text that the page opens with.
        target: for a model of two texts, what it has written for `text`; None lets it write.
        pair: a second sentence, which an encoder reads together with `text`.
        picture: the file of one, which a model of both reads together with every text.
        window: which window of a long text is shown first.
        source: the argument that `open_model` was called with.
        port: 0 takes a free one.
        ready: is called with the page's address as soon as the server listens.
    """
    need("uvicorn", "show", mistake("explorer"))
    import uvicorn

    from wqkv.explorer.protocol import TimedProtocol

    api = Api(model, source)
    model.check_target(target)
    shown = canonical_host(host)
    family = socket.AF_INET6 if shown.startswith("[") else socket.AF_INET
    try:
        listening = socket.create_server((shown.strip("[]"), port), family=family)
    except socket.gaierror as error:
        raise ArgumentError(mistake("no_host", host=shown)) from error
    except OSError as error:
        reason = said_by_system((error.strerror or str(error)).partition(" (")[0])
        wrong = mistake("cannot_listen", host=shown, port=port, reason=reason)
        raise ArgumentError(wrong) from error
    port, secret = listening.getsockname()[1], secrets.token_urlsafe(24)
    hosts = [f"{one}:{port}" for one in ("127.0.0.1", "localhost", "[::1]", shown)]
    config = uvicorn.Config(
        app(api, secret, hosts, text, target, window, pair, picture),
        http=TimedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    ready(f"http://{shown}:{port}/{secret}/")
    uvicorn.Server(config).run(sockets=[listening])


def app(
    api: Api,
    secret: str,
    hosts: Sequence[str],
    text: str | None = None,
    target: str | None = None,
    window: int = 0,
    pair: str | None = None,
    picture: str | None = None,
) -> Starlette:
    """Return the application that serves the page and its answers below /{secret}/.

    Args:
        hosts: the names that a request may call this server by, such as "127.0.0.1:8000".
        text: the text that the page opens with.
        target, window, pair, picture: see `serve`.
    """
    handlers = _Handlers(api, picture)
    if text is not None:
        handlers.start = handlers.open_job(TextAsked(text, target, pair, picture), window)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(handlers.close)

    async def nothing_here(_: Request, error: Exception) -> Response:
        """Answer a path or a method that no route has."""
        assert isinstance(error, HTTPException)
        return _refusal(Refused(error.status_code, "There is nothing here.", OPEN_AGAIN))

    made = Starlette(
        routes=handlers.routes(),
        lifespan=life,
        exception_handlers={HTTPException: nothing_here},
    )
    made.add_middleware(_Guard, secret=secret, hosts=frozenset(hosts))
    return made


class _Guard:
    """Lets a request pass that knows the secret, names this server, and comes from its own page."""

    def __init__(self, inner: ASGIApp, secret: str, hosts: frozenset[str]) -> None:
        self.inner, self.secret, self.ticket = inner, secret, Ticket(secret)
        self.hosts = frozenset(map(canonical_address, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
        elif scope["type"] == "http":
            try:
                inner = {**scope, "path": self._path_below_secret(scope), "root_path": ""}
            except Refused as refused:
                answer = _refusal(refused)
                if self._has_ticket(scope):
                    answer = Response(None, 303, HEADERS | {"Location": f"/{self.secret}/"})
                await answer(scope, receive, send)
            else:
                await self.inner(inner, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _path_below_secret(self, scope: Scope) -> str:
        """Return the path that a request asks for below the secret, or raise `Refused`."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        secret, slash, rest = scope["path"].removeprefix("/").partition("/")
        # compare_digest takes the same time for every wrong secret, so none is guessed by time.
        known = hmac.compare_digest(secret.encode("utf-8", "replace"), self.secret.encode())
        # Without the slash at its end, the page would ask for its files beside the secret.
        if not (known and slash):
            raise Refused(404, "There is nothing here.", OPEN_AGAIN)
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if canonical_address(host) not in self.hosts:
            raise Refused(403, f"This server is not {host[:80]!r}.", OPEN_AGAIN)
        scheme, _, page = (origin or f"http://{host}").partition("://")
        if scheme != "http" or canonical_address(page) not in self.hosts:
            raise Refused(403, f"A page of {(origin or '')[:80]!r} may not ask here.", OPEN_AGAIN)
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            raise _too_large(length)
        return f"/{rest}"

    def _has_ticket(self, scope: Scope) -> bool:
        client, server = ((scope.get(end) or ("", 0))[1] for end in ("client", "server"))
        return self.ticket.use(scope["path"], client, server)


class _Handlers:
    """The handler of every address below the secret."""

    def __init__(self, api: Api, picture: str | None) -> None:
        self.api, self.jobs, self.picture = api, Jobs(), picture
        self.readers = ThreadPoolExecutor(2, "wqkv-reader")
        self.files = dict(_page_files(files("wqkv.explorer") / "page"))
        self.start: Job[dict[str, str]] | None = None  # what reads the text that is shown first

    def close(self) -> None:
        self.jobs.close()
        self.readers.shutdown()

    def routes(self) -> list[Route]:
        return [
            Route("/", _answering_errors(self.page)),
            Route("/page/{name:path}", _answering_errors(self.file)),
            Route("/api/model", _answering_errors(self.model)),
            Route("/api/open", _answering_errors(self.open), methods=["POST"]),
            Route("/api/jobs/{job}", _answering_errors(self.job)),
            Route("/api/jobs/{job}/cancel", _answering_errors(self.cancel), methods=["POST"]),
            Route("/api/views/{view}", _answering_errors(self.view)),
            Route("/api/views/{view}/whatif", _answering_errors(self.what_if), methods=["POST"]),
            Route("/api/views/{view}/generate", _answering_errors(self.generate), methods=["POST"]),
            Route("/api/views/{view}/why", _answering_errors(self.why), methods=["POST"]),
            Route("/api/views/{view}/groups", _answering_errors(self.groups), methods=["POST"]),
            Route("/api/views/{view}/export", _answering_errors(self.export)),
            Route("/api/views/{view}/{name}", _answering_errors(self.answer)),
        ]

    # The page

    async def page(self, _: Request) -> Response:
        return self._file("open.html")

    async def file(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self.files:  # so a name from a request never becomes a path on the disk
            raise Refused(404, f"The page has no file {name[:80]!r}.", "Load the page again.")
        text = self.files[name].read_bytes()
        return Response(text, 200, HEADERS, TYPES[Path(name).suffix])

    # The API

    async def model(self, _: Request) -> Response:
        answer: ServedModel = {**self.api.facts(), "start": self._start_facts()}
        return _json(answer)

    def _start_facts(self) -> StartFacts | None:
        """Return the view of the text that the page opens with, or the job that reads it."""
        if self.start is None:
            return None
        if self.start.result is not None:
            if self.api.has(self.start.result["view"]):
                return {"view": self.start.result["view"]}
            self.start = self.jobs.again(self.start)  # other texts have replaced it since
        return {"job": self.start.id}

    async def open(self, request: Request) -> Response:
        body = await _body(request)
        view = body.view()
        if view is None:
            sent = body.picture()
            asked = TextAsked(body.text(), body.target(), body.pair(), sent or self.picture)
            # A path would let whoever asks look at any file of this machine.
            looked_at = asked.text if self.api.model.reads == "picture" else sent
            if looked_at is not None and not looked_at.startswith(DATA):
                raise Refused.because(422, mistake("no_data_address", model=self.api.model.name))
        else:
            asked = self.api.text(view)
        return _json({"job": self.open_job(asked, body.window()).id})

    def open_job(self, asked: TextAsked, window: int) -> Job[dict[str, str]]:
        """Read a text, which the job's result names as a view."""

        def run(progress: Progress) -> dict[str, str]:
            seen = self.api.open(
                asked.text, progress, asked.target, window, asked.pair, asked.picture
            )
            return {"view": self.api.keep(seen)}

        return self.jobs.start("open", run)

    async def job(self, request: Request) -> Response:
        job, lang = self._find_job(request), _language(request)
        return await self._answer_soon(lambda: job.facts(lang))

    async def cancel(self, request: Request) -> Response:
        self.jobs.cancel(self._find_job(request))
        return _json({})

    def _find_job(self, request: Request) -> Job[Any]:  # of any kind of result
        id = request.path_params["job"]
        job = self.start if self.start is not None and self.start.id == id else self.jobs.find(id)
        if job is None:
            raise Refused.because(404, mistake("work_forgotten"))
        return job

    async def view(self, request: Request) -> Response:
        seen = self.api.seen(request.path_params["view"])
        return await self._answer_soon(lambda: self.api.about(seen))

    async def answer(self, request: Request) -> Response:
        name, view = request.path_params["name"], request.path_params["view"]
        seen, ask = self.api.seen(view), Parameters(request.query_params)
        if name in QUICK:
            quick = functools.partial(QUICK[name], self.api, seen, ask, lambda *_: None)
            return await self._answer_soon(quick)
        if name not in SLOW:
            raise Refused(404, f"There is no {name[:80]!r} of a text.", "Load the page again.")
        asked = sorted(request.query_params.items())
        slow: Callable[[Progress], Answer] = functools.partial(SLOW[name], self.api, seen, ask)
        if name in OF_THE_MODEL:
            query = "&".join(f"{key}={value}" for key, value in asked)
            slow = _kept(seen, f"{name}?{query}" if query else name, slow)
        job = self.jobs.start(name, slow, (view, name, *asked))
        end = time.monotonic() + PATIENCE
        while not job.ended.is_set() and time.monotonic() < end:
            await asyncio.sleep(0.004)
        if job.failure is not None:
            return _refusal(job.failure, _language(request))
        if job.state == "done":
            return await self._answer_soon(lambda: job.result)
        return _json({"job": job.id}, 202)

    async def what_if(self, request: Request) -> Response:
        seen, body = self.api.seen(request.path_params["view"]), await _body(request)
        off, edits = body.changes()
        run: Callable[[Progress], WhatIfAnswer]
        run = functools.partial(self.api.what_if, seen, off, edits)
        if not edits:  # they make another text, which a saved page does not have
            run = _kept(seen, f"whatif {body.key}", run)
        return _json({"job": self.jobs.start("whatif", run).id})

    async def generate(self, request: Request) -> Response:
        seen, body = self.api.seen(request.path_params["view"]), await _body(request)
        run = functools.partial(self.api.generate, seen, body.count(), body.sampling())
        return _json({"job": self.jobs.start("generate", run).id})

    async def why(self, request: Request) -> Response:
        seen, body = self.api.seen(request.path_params["view"]), await _body(request)
        asked, how = body.asked_why(), cast(How, body.choice("how", *HOWS))
        run = _kept(
            seen,
            f"why {body.key}",
            functools.partial(links_that_matter, self.api, seen, asked, how),
        )
        return _json({"job": self.jobs.start("why", run).id})

    async def groups(self, request: Request) -> Response:
        seen, body = self.api.seen(request.path_params["view"]), await _body(request)
        asked, by = body.asked_why(), cast(By, body.choice("by", *GROUPS))
        run = _kept(
            seen,
            f"groups {body.key}",
            functools.partial(groups_that_matter, self.api, seen, asked, by),
        )
        return _json({"job": self.jobs.start("groups", run).id})

    async def export(self, request: Request) -> Response:
        seen, ask = self.api.seen(request.path_params["view"]), Parameters(request.query_params)
        layer, head, token = ask.integers("layer", "head", "token")
        seen.view.checked_layer(layer, head, token)
        lang = ask.choice("lang", "en", *LANGUAGES)

        def run(progress: Progress) -> str:
            return export(self.api, seen, (layer, head, token), lang, progress)

        job = self.jobs.start("export", run)
        try:
            while not job.ended.is_set():
                await asyncio.sleep(0.05)
                if await request.is_disconnected():
                    self.jobs.cancel(job)
        finally:
            self.jobs.cancel(job)
        if job.failure is not None:
            return _refusal(job.failure, _language(request))
        page = job.take()  # not kept: it is large, and the page asks for it once
        name = {"Content-Disposition": f'attachment; filename="wqkv-{layer}-{head}-{token}.html"'}
        return Response(page, 200, HEADERS | name, TYPES[".html"])

    async def _answer_soon(self, answer: Callable[[], object]) -> Response:
        """Return an answer that takes milliseconds, without waiting for the jobs."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.readers, lambda: _json(answer()))


def _kept(
    seen: OpenView, key: str, make: Callable[[Progress], AnswerType]
) -> Callable[[Progress], AnswerType]:
    """The work that keeps its answer with the view: a saved page will have it."""

    def run(progress: Progress) -> AnswerType:
        seen.asked[key] = answer = make(progress)
        return answer

    return run


def _page_files(folder: Traversable, path: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield every file of the page with its path below the page's folder."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _page_files(entry, f"{path}{entry.name}/")
        elif Path(entry.name).suffix in TYPES:
            yield f"{path}{entry.name}", entry


Handler = Callable[[Request], Awaitable[Response]]


def _answering_errors(handler: Handler) -> Handler:
    """Wrap `handler` so that its exceptions become answers and the server keeps running."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:
            return _refusal(refusal_of(error), _language(request))

    return answer


def _refusal(refused: Refused, lang: str = LANGUAGES[0]) -> Response:
    error, do = refused.told(lang)
    return _json({"error": error, "do": do}, refused.status)


def _language(request: Request) -> str:
    """The language that the page speaks, or else the browser's, if it is one of LANGUAGES."""
    asked = request.headers.get("accept-language", "").lower()
    return next((lang for lang in LANGUAGES if asked.startswith(lang)), LANGUAGES[0])


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, HEADERS, "application/json")


def _too_large(length: str) -> Refused:
    wrong = f"The request has {length[:20]} bytes, and at most {MAX_BYTES} are read."
    return Refused(413, wrong, "Send a shorter text.")


async def _body(request: Request) -> Body:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise _too_large(f"more than {MAX_BYTES}")
    return Body(data)
