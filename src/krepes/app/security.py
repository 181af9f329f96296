"""Who may ask: the holder of the start link, from this machine, from this app's own page."""

import hmac
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# a report is shown as the run has it, in an origin of its own that can ask this app for nothing
REPORT_POLICY = (
    "sandbox allow-popups allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
SAFE = ("GET", "HEAD")
PAGES = ("/", "/report")  # that may be opened from elsewhere, by a link
UNCHANGED = "no-store"  # what a browser keeps could outlive the run that it was of


class Guard:
    """ASGI middleware around the whole app.

    * Host is a loopback name with the app's port, so that no other name can be bound to it (DNS rebinding).
    * The token of the start link becomes an HttpOnly, SameSite=Strict cookie; every other request needs it.
    * What changes something comes with the app's own Origin; nothing that another site's page asks for is answered.
    * Every response carries the headers of `HEADERS` and a content security policy.

    Args:
        app: that is guarded.
        token: of the start link.
        port: that the app listens at.
    """

    def __init__(self, app: ASGIApp, token: str, port: int):
        self._app, self._token = app, token
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        # cookies know no ports: two apps at once would take each other's
        self._cookie = f"krepes_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope["headers"])

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = secured(message.get("headers", ()), scope["path"])
            await send(message)

        refused = self._refusal(scope, headers)
        if refused is not None:
            await answer(with_headers, *refused)
        elif scope["path"] == "/" and scope["method"] == "GET" and b"token=" in scope["query_string"]:
            await answer(with_headers, *self._entered(scope))
        else:
            await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: "Headers") -> tuple[int, dict[str, str], list] | None:
        host = headers.one("host")
        if host is None or host.lower() not in self._hosts:
            return refusal(403, "this app answers at 127.0.0.1 and localhost alone: open the link that krepes printed")
        from_elsewhere = headers.one("sec-fetch-site") in ("cross-site", "same-site")
        opened = headers.one("sec-fetch-mode") == "navigate" and scope["path"] in PAGES and scope["method"] in SAFE
        if from_elsewhere and not opened:
            return refusal(403, "this request comes from another site's page")
        if scope["method"] not in SAFE and headers.one("origin") != f"http://{host}":
            return refusal(403, "this request does not come from the app's own page")
        if scope["path"] == "/" and b"token=" in scope["query_string"] and scope["method"] == "GET":
            return None
        if not self._is_token(headers.cookie(self._cookie)):
            return refusal(401, "open the start link that krepes serve printed in the terminal")
        return None

    def _entered(self, scope: Scope) -> tuple[int, dict[str, str], list]:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if len(given) != 1 or not self._is_token(given[0]):
            return refusal(401, "the token of this link is wrong or of an earlier start; open the one printed last")
        cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
        return 303, {}, [(b"location", b"/"), (b"set-cookie", cookie.encode())]

    def _is_token(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self._token.encode())


class Headers:
    """A request's headers."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]):
        self._raw = list(raw)

    def one(self, name: str) -> str | None:
        """The only header of this name; None where there is none, or several."""
        found = [value for key, value in self._raw if key.lower() == name.encode()]
        return found[0].decode("latin-1") if len(found) == 1 else None

    def cookie(self, name: str) -> str | None:
        """A cookie's value; those of other apps on this machine come along, whatever they hold."""
        pairs = (part.strip().partition("=") for part in (self.one("cookie") or "").split(";"))
        return next((value for key, _, value in pairs if key == name), None)


def secured(headers: Iterable[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    """A response's headers with those of security."""
    ours = {**HEADERS, "content-security-policy": REPORT_POLICY if path == "/report" else POLICY,
            "cache-control": UNCHANGED}  # fmt: skip
    names = {name.encode() for name in ours}
    return [(k, v) for k, v in headers if k.lower() not in names] + [(k.encode(), v.encode()) for k, v in ours.items()]


def refusal(status: int, sentence: str) -> tuple[int, dict[str, str], list]:
    """A status and what its JSON says."""
    return status, {"error": sentence}, []


async def answer(send: Send, status: int, content: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> None:
    """A short response."""
    body = json.dumps(content).encode() if content else b""
    kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": kind + headers})
    await send({"type": "http.response.body", "body": body})
