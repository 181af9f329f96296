"""What a request asks, checked, and answers as strict JSON."""

import json
import math
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from krepes.app.tiles import Theme
from krepes.errors import ConfigError

QUESTION = 4 * 2**20  # bytes of a JSON body


class Json(JSONResponse):
    """Strict JSON: what is no number is null."""

    def render(self, content: Any) -> bytes:
        return json.dumps(strict(content), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )


def strict(value: Any) -> Any:
    """Plain values; NaN and infinity are None."""
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def whole(text: str | None, name: str, low: int, high: int, default: int | None = None) -> int:
    """A whole number of a URL.

    Raises:
        ConfigError: it is none, or out of range.
    """
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 12 or not low <= int(text) <= high:
        raise ConfigError(f"{name}={str(text)[:20]}; expected a whole number from {low} to {high}")
    return int(text)


def real(request: Request, name: str) -> float:
    """A finite number of a URL."""
    text = request.query_params.get(name, "")
    try:
        found = float(text[:40])
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or abs(found) > 1e100:
        raise ConfigError(f"{name}={text[:20]!r}; expected a finite number")
    return found


def theme_of(request: Request) -> Theme:
    """light or dark."""
    found = request.query_params.get("theme", "light")
    if found not in ("light", "dark"):
        raise ConfigError(f"theme={found[:20]!r}; expected light or dark")
    return found


def text_of(content: dict[str, Any], name: str, longest: int = 200) -> str:
    """A text of a JSON body."""
    found = content.get(name)
    if not isinstance(found, str) or not 1 <= len(found) <= longest:
        raise ConfigError(f"{name} is missing or no text of at most {longest} characters")
    return found


async def body_of(request: Request, limit: int) -> bytes:
    """The body; HTTPException 413 as soon as it is longer than the limit."""
    announced = request.headers.get("content-length", "")
    too_long = HTTPException(413, f"the request holds more than {limit // 2**20} MiB, which is the limit")
    if announced.isdecimal() and (len(announced) > 12 or int(announced) > limit):
        raise too_long
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_long
        parts.append(part)
    return b"".join(parts)


async def json_of(request: Request) -> dict[str, Any]:
    """A JSON object as the body."""
    body = await body_of(request, QUESTION)
    try:
        found = await run_in_threadpool(json.loads, body)
    except (ValueError, RecursionError) as error:
        raise ConfigError("the request is no valid JSON") from error
    if not isinstance(found, dict):
        raise ConfigError("the request is no JSON object")
    return found
