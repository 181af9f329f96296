"""The pages and the HTTP API."""

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from krepes.app.exports import selection_csv
from krepes.app.parameters import Json, body_of, json_of, real, text_of, theme_of, whole
from krepes.app.points import Box
from krepes.app.selection import polygon_of, positions_within
from krepes.app.state import State
from krepes.app.tiles import DEEPEST
from krepes.app.upload import BYTES
from krepes.errors import ConfigError

STATIC = Path(__file__).parent / "static"
# said here: a system's own table may call scripts plain text, which browsers then refuse
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
         ".png": "image/png", ".ico": "image/x-icon", ".woff2": "font/woff2", ".json": "application/json",
         ".map": "application/json", ".txt": "text/plain", ".md": "text/plain"}  # fmt: skip
ROWS = 500  # of one answer
SIDE, AREA = 8192, 16 * 2**20  # pixels of an exported map


class Api:
    """The answers over a state.

    Functions without `async` are called in threads.
    """

    def __init__(self, state: State):
        self.state = state
        loader = PackageLoader("krepes", "app/templates")
        self._templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)

    def _position(self, request: Request) -> int:
        n = self.state.points.n
        try:
            return whole(request.path_params["position"], "position", 0, n - 1)
        except ConfigError as error:
            raise HTTPException(404, f"there is no such sample; positions go from 0 to {n - 1}") from error

    def page(self, request: Request) -> Response:
        """GET /"""
        return Response(
            self._templates.get_template("index.html").render(title=self.state.title), media_type="text/html"
        )

    def overview(self, request: Request) -> Response:
        """GET /api/run"""
        return Json(self.state.overview())

    def tile(self, request: Request) -> Response:
        """GET /tiles/{z}/{x}/{y}.png"""
        z = whole(request.path_params["z"], "z", 0, DEEPEST)
        x, y = (whole(request.path_params[k], k, 0, 2**z - 1) for k in ("x", "y"))
        found = self.state.tile(z, x, y, request.query_params.get("colour"), request.query_params.get("selection"),
                           theme_of(request))  # fmt: skip
        return Response(found, media_type="image/png")

    def landmarks(self, request: Request) -> Response:
        """GET /api/landmarks"""
        return Json([{k: v for k, v in row.items() if k != "cells"} for row in self.state.landmarks.rows])

    def nearest(self, request: Request) -> Response:
        """GET /api/nearest"""
        x, y, r = (real(request, name) for name in ("x", "y", "r"))
        at = self.state.points.nearest(x, y, abs(r))
        points = self.state.points
        found = None if at is None else {"position": at, "id": points.id(at), "x": float(points.x[at]),
                                         "y": float(points.y[at])}  # fmt: skip
        return Json(found)

    def samples(self, request: Request) -> Response:
        """GET /api/samples"""
        asked = request.query_params
        offset, limit = (
            whole(asked.get("offset"), "offset", 0, 10**12 - 1, 0), whole(asked.get("limit"), "limit", 0, ROWS, 50)
        )  # fmt: skip
        found = self.state.chosen(asked.get("selection"), asked.get("q"), asked.get("where"))
        return Json({"total": len(found), "rows": self.state.rows(found[offset : offset + limit].tolist())})

    def explain(self, request: Request) -> Response:
        """GET /api/explain/{position}"""
        return Json(self.state.explain(self._position(request)))

    def picture(self, request: Request) -> Response:
        """GET /picture/{position}"""
        found = self.state.picture(self._position(request))
        if found is None:
            why = (
                "this run keeps pictures hidden" if not self.state.thumbnails else "there is no picture of this sample"
            )
            raise HTTPException(404, why)
        return Response(found, media_type="image/webp" if found[:4] == b"RIFF" else "image/png")

    def _selected(self, content: dict[str, Any]) -> dict[str, Any]:
        ways = [k for k in ("polygon", "where", "q", "positions") if content.get(k) is not None]
        if len(ways) != 1:
            raise ConfigError("expected one of polygon, where, q and positions")
        (way,) = ways
        if way == "polygon":
            return self.state.select(self.state.points.inside(polygon_of(content["polygon"])))
        if way == "positions":
            return self.state.select(positions_within(content["positions"], self.state.points.n))
        text = text_of(content, way, 10_000)
        return self.state.select(self.state.chosen(query=text) if way == "where" else self.state.chosen(text=text))

    async def select(self, request: Request) -> Response:
        """POST /api/select"""
        content = await json_of(request)
        return Json(await run_in_threadpool(self._selected, content))

    async def concept(self, request: Request) -> Response:
        """POST /api/concept"""
        content = await json_of(request)
        name = text_of(content, "name", 100) if content.get("name") is not None else "concept"
        negative = None if content.get("negative") is None else text_of(content, "negative")
        return Json({"job": self.state.ask_concept(text_of(content, "positive"), negative, name)}, 202)

    async def counterfactual(self, request: Request) -> Response:
        """POST /api/counterfactual"""
        content = await json_of(request)
        given = content.get("positions")
        if isinstance(given, list) and len(given) > 50:
            raise ConfigError(f"positions holds {len(given):,} samples; at most 50 are told one by one")
        asked = np.zeros(0, np.int64) if given in (None, []) else positions_within(given, self.state.points.n)
        return Json({"job": self.state.ask_counterfactual(text_of(content, "remove"), asked)}, 202)

    def job(self, request: Request) -> Response:
        """GET /api/jobs/{name}"""
        found = self.state.jobs.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "there is no such question, or its answer is gone: ask again")
        return Json(found)

    async def upload(self, request: Request) -> Response:
        """POST /api/upload"""
        self.state.live.needed()
        body = await body_of(request, BYTES)
        return Json(await run_in_threadpool(self.state.uploaded, body, request.headers.get("content-type", "")))

    def compare(self, request: Request) -> Response:
        """GET /api/compare"""
        return Json(self.state.comparison())

    def csv_file(self, request: Request) -> Response:
        """GET /export/selection.csv"""
        asked = request.query_params
        found = self.state.chosen(asked.get("selection"), asked.get("q"), asked.get("where"))
        return StreamingResponse(selection_csv(self.state, found), media_type="text/csv; charset=utf-8",
                                 headers={"content-disposition": 'attachment; filename="selection.csv"'})  # fmt: skip

    def map_file(self, request: Request) -> Response:
        """GET /export/map.png"""
        box = Box(*(real(request, name) for name in ("x0", "y0", "x1", "y1")))
        width, height = (whole(request.query_params.get(k), k, 1, SIDE, 1024) for k in ("width", "height"))
        if box.x1 <= box.x0 or box.y1 <= box.y0 or width * height > AREA:
            raise ConfigError(f"expected x0 < x1, y0 < y1 and at most {AREA:,} pixels")
        layer = self.state.layer(request.query_params.get("colour"), request.query_params.get("selection"))[0]
        found = self.state.tiles.region(box, width, height, layer, theme_of(request))
        return Response(found, media_type="image/png",
                        headers={"content-disposition": 'attachment; filename="map.png"'})  # fmt: skip

    def report(self, request: Request) -> Response:
        """GET /report"""
        found = self.state.report()
        if found is None:
            raise HTTPException(404, "the run has no report.html; it is written when the audit is complete")
        return Response(found, media_type="text/html; charset=utf-8")


def routes(state: State) -> list[Route]:
    """The pages and the HTTP API over a state."""
    api = Api(state)
    get: dict[str, Any] = {
        "/": api.page, "/api/run": api.overview, "/tiles/{z}/{x}/{y}.png": api.tile, "/api/landmarks": api.landmarks,
        "/api/nearest": api.nearest, "/api/samples": api.samples, "/api/explain/{position}": api.explain,
        "/picture/{position}": api.picture, "/api/jobs/{name}": api.job, "/api/compare": api.compare,
        "/export/selection.csv": api.csv_file, "/export/map.png": api.map_file, "/report": api.report,
        "/static/{name:path}": static,
    }  # fmt: skip
    post = {"/api/select": api.select, "/api/concept": api.concept, "/api/counterfactual": api.counterfactual,
            "/api/upload": api.upload}  # fmt: skip
    return [
        *(Route(path, answer) for path, answer in get.items()),
        *(Route(path, answer, methods=["POST"]) for path, answer in post.items()),
    ]


def static(request: Request) -> Response:
    """A file of the page: one of those that are there, so that no path of a URL reaches the file system."""
    there = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
    found = there.get(request.path_params["name"])
    if found is None or found.suffix not in TYPES:
        raise HTTPException(404, "there is no such file of the page")
    return Response(found.read_bytes(), media_type=TYPES[found.suffix])
