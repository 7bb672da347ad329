"""The routes: each reads its request, gives the work to a worker thread, and answers."""

import contextlib
import json
import logging
import mimetypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from retrieval.errors import ClusterError, RetrievalError
from retrieval.search.grades import GRADES
from retrieval.search.retriever import AUTO
from retrieval.web import forms, openapi, pictures
from retrieval.web.groups import Groups
from retrieval.web.guard import Guard, Policy
from retrieval.web.labelling import Labelling
from retrieval.web.problems import RequestError
from retrieval.web.service import Service
from retrieval.web.workers import Workers

logger = logging.getLogger(__name__)

MAX_UPLOAD = 25_000_000  # bytes
MAX_PAGE = 200  # photographs
_BODIES = 8  # the longest bodies that memory is held for
_THUMBNAIL = 320  # pixels
_ASK = {"cache-control": "private, no-cache"}  # kept, but asked for each time: the photograph may be replaced
_PICTURE_THREADS, _PICTURES_WAITING = 2, 256
_AWAY = 10  # seconds after which a client may ask again for what does not answer
_NOT_SAID = "something went wrong on the server; its log says what"


@dataclass(frozen=True)
class Limits:
    """What one client can ask of the server.

    Attributes:
        threads: searches at once.
        waiting: searches that may wait.
        upload_bytes: longest body.
    """

    threads: int = os.cpu_count() or 1
    waiting: int = 64
    upload_bytes: int = MAX_UPLOAD


def make_app(
    service: Service, policy: Policy, limits: Limits | None = None, labelling: Labelling | None = None
) -> Guard:
    """The application.

    Args:
        service: does the work.
        policy: who is let in.
        limits: of requests.
        labelling: takes labels, in the labelling mode.
    """
    routes = _Routes(service, limits or Limits(), policy.root, labelling)
    handlers: dict[Any, Any] = {
        RequestError: _refused,
        ClusterError: _away,
        RetrievalError: _failed,
        HTTPException: _unknown,
        Exception: _broken,
    }
    app = Starlette(routes=routes.table(), exception_handlers=handlers, lifespan=routes.lifespan)
    app.router.redirect_slashes = False  # a redirection would repeat whatever name the client called the server
    return Guard(app, policy)


class _Routes:
    def __init__(self, service: Service, limits: Limits, root: str, labelling: Labelling | None):
        self.service = service
        self.labelling = labelling
        self.limits = limits
        self._searches = Workers(limits.threads, limits.waiting, "search")
        self._pictures = Workers(_PICTURE_THREADS, _PICTURES_WAITING, "picture")
        self._memory = forms.Memory(_BODIES * limits.upload_bytes)
        self._static = _static_files()
        self._labels = Workers(1, limits.waiting, "label")  # they are written one after the other anyway
        self._groups = Groups(service)
        self._grouping = Workers(1, limits.waiting, "groups")  # pairs are read once for all that wait for them
        self._description = openapi.description(limits.upload_bytes, root, labelling is not None)

    def table(self) -> list[Route]:
        labels = [Route("/api/labels", self.labels), Route("/api/labels", self.mark, methods=["POST"])]
        return [
            *(labels if self.labelling else ()),
            Route("/", self.page),
            Route("/docs", self.docs),
            Route("/static/{name}", self.static),
            Route("/openapi.json", self.openapi),
            Route("/healthz", self.healthz),
            Route("/api/index", self.about),
            Route("/api/images", self.images),
            Route("/api/images/{id}", self.image),
            Route("/api/images/{id}/picture", self.picture),
            Route("/thumbnails/{id}", self.thumbnail),
            Route("/api/uploads", self.upload, methods=["POST"]),
            Route("/api/search", self.search, methods=["POST"]),
            Route("/api/explain", self.explain),
            Route("/api/groups", self.groups),
            Route("/api/groups/{id}", self.group),
            Route("/api/group-sizes", self.group_sizes),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._searches.close()
            self._pictures.close()
            self._labels.close()
            self._grouping.close()
            self.service.uploads.clear()

    async def page(self, _: Request) -> Response:
        return self._file("index.html")

    async def docs(self, _: Request) -> Response:
        return self._file("docs.html")

    async def static(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    async def openapi(self, _: Request) -> Response:
        return answer(self._description)

    async def healthz(self, _: Request) -> Response:
        return answer({"status": "ok"})

    async def about(self, _: Request) -> Response:
        about = await self._pictures.run(self.service.about)
        labels = None if self.labelling is None else self.labelling.file
        return answer({**about, "max_upload": self.limits.upload_bytes, "labels": labels})

    async def images(self, request: Request) -> Response:
        given = _parameters(request, "page", "size", "q")
        page = forms.integer(given.get("page", "1"), "page", 1, 10**8)
        size = forms.integer(given.get("size", "48"), "size", 1, MAX_PAGE)
        return answer(await self._pictures.run(self.service.images, page, size, given.get("q", "")[:200]))

    async def image(self, request: Request) -> Response:
        _parameters(request)
        return answer((await self._pictures.run(self.service.photograph, request.path_params["id"])).tree())

    async def picture(self, request: Request) -> Response:
        side = _parameters(request, "side").get("side", "1280")
        if side not in map(str, pictures.SIDES):
            raise RequestError(400, f"side: expected one of {', '.join(map(str, pictures.SIDES))}")
        return await self._picture(request, int(side))

    async def thumbnail(self, request: Request) -> Response:
        return await self._picture(request, _THUMBNAIL)

    async def _picture(self, request: Request, side: int) -> Response:
        known = request.headers.get("if-none-match", "")
        data, tag = await self._pictures.run(self.service.picture, request.path_params["id"], side, known)
        headers = {**_ASK, "etag": f'"{tag}"'}
        if data is None:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type="image/jpeg", headers=headers)

    async def upload(self, request: Request) -> Response:
        with self._memory.share() as share:
            body = await self._form(request, share)
            _, file = await self._searches.run(forms.parse_form, body, request.headers["content-type"])
            photograph = await self._searches.run(self.service.upload, file.name, file.data)
        return answer(photograph.tree(), 201)

    async def search(self, request: Request) -> Response:
        kind = forms.media_type(request)
        with self._memory.share() as share:
            if kind == "application/json":
                wanted = forms.search_from_json(await forms.read_body(request, forms.MAX_JSON, share))
                return answer(await self._searches.run(self._search, wanted))
            body = await self._form(request, share, "application/json or ")
            wanted = await self._searches.run(forms.search_from_form, body, request.headers["content-type"])
            return answer(await self._searches.run(self._search, wanted))

    def _search(self, wanted: forms.SearchRequest) -> dict[str, Any]:
        key = wanted.id
        if wanted.file is not None:
            key = self.service.upload(wanted.file.name, wanted.file.data).id
        assert key is not None
        how = (wanted.box, wanted.top, wanted.verify, wanted.expand, wanted.matches, wanted.mirror)
        return self.service.search(key, *how, wanted.candidates, wanted.skip_unknown)

    async def explain(self, request: Request) -> Response:
        given = _parameters(request, "query", "box", "hit", "mirror", "expand")
        for key in ("query", "hit"):
            if key not in given:
                raise RequestError(400, f"{key}: expected the id of a photograph")
        box = forms.box_of_text(given.get("box", ""))
        mirror = forms.truth(given.get("mirror", "false"), "mirror")
        expand = forms.expansion(given.get("expand", AUTO), AUTO, "none")
        explain = self.service.explain
        return answer(await self._searches.run(explain, given["query"], box, given["hit"], mirror, expand))

    async def groups(self, request: Request) -> Response:
        given = _parameters(request, "confidence", "page", "size")
        page = forms.integer(given.get("page", "1"), "page", 1, 10**8)
        size = forms.integer(given.get("size", "24"), "size", 1, MAX_PAGE)
        return answer(await self._grouping.run(self._groups.page, _confidence(given), page, size))

    async def group(self, request: Request) -> Response:
        given = _parameters(request, "confidence", "page", "size")
        page = forms.integer(given["page"], "page", 1, 10**8) if "page" in given else None
        size = forms.integer(given.get("size", str(MAX_PAGE)), "size", 1, MAX_PAGE)
        key = request.path_params["id"]
        return answer(await self._grouping.run(self._groups.of, key, _confidence(given), page, size))

    async def group_sizes(self, request: Request) -> Response:
        given = _parameters(request, "confidence", "ids")
        ids = [key for key in given.get("ids", "").split(",") if key]
        if not 1 <= len(ids) <= MAX_PAGE:
            raise RequestError(400, f"ids: expected 1 to {MAX_PAGE} ids of photographs, with commas")
        return answer(await self._grouping.run(self._groups.sizes, ids, _confidence(given)))

    async def labels(self, request: Request) -> Response:
        assert self.labelling is not None
        given = _parameters(request, "query", "box")
        box = forms.box_of_text(given.get("box", ""))
        return answer(await self._labels.run(self.labelling.shown, given.get("query"), box))

    async def mark(self, request: Request) -> Response:
        assert self.labelling is not None
        if forms.media_type(request) != "application/json":  # which no page of another site sends unasked
            raise RequestError(415, "expected application/json", close=True)
        with self._memory.share() as share:
            one = forms.mark_from_json(await forms.read_body(request, forms.MAX_JSON, share))
            mark = self.labelling.mark
            return answer(await self._labels.run(mark, one.query, one.box, one.hit, one.label, one.expected))

    async def _form(self, request: Request, share: forms.Share, others: str = "") -> bytes:
        """The body of a multipart request."""
        if forms.media_type(request) != "multipart/form-data":
            raise RequestError(415, f"expected {others}multipart/form-data", close=True)
        return await forms.read_body(request, self.limits.upload_bytes, share)

    def _file(self, name: str) -> Response:
        if name not in self._static:
            raise HTTPException(404)
        data, kind = self._static[name]
        return Response(data, media_type=kind, headers={"cache-control": "no-cache"})


def answer(tree: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII: names may hold bytes that are not text, as lone surrogates, which UTF-8 does not take."""
    return Response(json.dumps(tree), status, headers, "application/json")


def _static_files() -> dict[str, tuple[bytes, str]]:
    """All files of the page, by name, read once: no name from a request reaches the file system."""
    folder = resources.files("retrieval.web").joinpath("static")
    found = {}
    for item in folder.iterdir():
        kind = {".js": "text/javascript", ".svg": "image/svg+xml"}.get(os.path.splitext(item.name)[1])
        kind = kind or mimetypes.guess_type(item.name)[0] or "application/octet-stream"
        found[item.name] = item.read_bytes(), kind
    return found


def _confidence(given: dict[str, str]) -> str:
    return forms.choice(given.get("confidence", GRADES[-1]), "confidence", GRADES[::-1])


def _parameters(request: Request, *known: str) -> dict[str, str]:
    """The query string's parameters.

    Raises:
        RequestError: one that is not known, or that comes twice.
    """
    items = request.query_params.multi_items()
    if len({key for key, _ in items}) < len(items) or any(key not in known for key, _ in items):
        raise RequestError(400, f"a parameter comes twice or is not known; known: {', '.join(known) or 'none'}")
    return dict(items)


Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.close:
        headers["connection"] = "close"
    return answer({"error": str(error)}, error.status, headers)


async def _away(request: Request, error: Exception) -> Response:
    logger.error("%s %s: %s", request.method, request.url.path, error)
    told = "the workers that search the index, or those with what this needs of it, do not answer: try again later"
    return answer({"error": told}, 503, {"retry-after": str(_AWAY)})


async def _failed(request: Request, error: Exception) -> Response:
    logger.error("%s %s: %s", request.method, request.url.path, error)
    return answer({"error": _NOT_SAID}, 500)


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    if error.status_code == 405:
        return answer({"error": f"this address takes {allowed} only"}, 405, {"allow": allowed})
    return answer(
        {"error": "there is nothing at this address; docs, beside the page, says what there is"}, error.status_code
    )


async def _broken(request: Request, error: Exception) -> Response:
    return answer({"error": _NOT_SAID}, 500)
