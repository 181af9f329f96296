"""Samples as a user may bring them, ordinary and extreme."""

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from krepes.errors import KrepesError

DENORMAL = {np.float16: 6e-8, np.float32: 1e-42, np.float64: 1e-310}


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array or tensor (n, p) of numbers; most of them can be audited."""
    n, p = draw(st.sampled_from([20, 12, 8, 6, 3, 2, 1])), draw(st.sampled_from([3, 2, 1]))
    kind = draw(st.sampled_from([np.float32, np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]))
    x = np.random.default_rng(draw(st.integers(0, 3))).normal(size=(n, p))
    x = x * draw(st.sampled_from([1.0, 1.0, 1.0, 1e-30, 1e30, 1e-4, 1e4, 0.0]))
    with np.errstate(over="ignore"):
        x = (x * 100).astype(kind) if np.dtype(kind).kind in "iu" else (x > 0 if kind is np.bool_ else x.astype(kind))
    return shaped(draw, spoiled(draw, x))


def spoiled(draw: st.DrawFn, x: np.ndarray) -> np.ndarray:
    """With one thing that makes data difficult, or none."""
    how = draw(st.sampled_from(["", "", "", "constant column", "twins", "all alike", "nan", "inf", "denormal"]))
    real = x.dtype.kind == "f"
    if how == "constant column":
        x[:, 0] = 1
    elif how == "twins":
        x[len(x) // 2 :] = x[: len(x) - len(x) // 2]
    elif how == "all alike":
        x[:] = x[0]
    elif how in ("nan", "inf") and real:
        x[-1, 0] = float(how)
    elif how == "denormal" and real:
        x[:, -1] = DENORMAL[x.dtype.type]
    return x


def shaped(draw: st.DrawFn, x: np.ndarray) -> Any:
    """The same numbers in another kind of memory."""
    how = draw(st.sampled_from(["array", "tensor", "every second", "transposed", "read only", "reversed", "list"]))
    if how == "every second":
        return np.repeat(x, 2, axis=0)[::2]
    if how == "transposed":
        return torch.as_tensor(np.ascontiguousarray(x.T)).T
    if how == "reversed":
        return x[::-1]
    if how == "read only":
        x.flags.writeable = False
        return x
    return {"array": x, "tensor": torch.as_tensor(x), "list": x.tolist()}[how]


def in_words(error: KrepesError) -> None:
    """Whether a refusal says more than a word."""
    assert len(str(error)) > 20, repr(error)
