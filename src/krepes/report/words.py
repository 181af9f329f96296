"""Values as readers see them, and the templates that they stand in."""

from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def number(value: Any) -> str:
    """Three significant digits; – where there is none."""
    return f"{value:.3g}".replace("-", "−") if is_number(value) else "–"


def signed(value: Any, digits: int = 3) -> str:
    """With its sign and so many digits behind the point; – where there is none."""
    if not is_number(value):
        return "–"
    shown = f"{value:+.{digits}f}"
    return (shown if float(shown) else shown[1:]).replace("-", "−")


def cell(value: Any) -> str:
    """A raw value as text; missing is said."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or str(value) in ("NaT", "<NA>"):
        return "missing"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names."""
    out = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out |= flatten(value, f"{prefix}{key}.")
        else:
            text = "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            out[f"{prefix}{key}"] = text if len(text) < 120 else text[:117] + "…"
    return out


def templates() -> Environment:
    """The package's templates: everything is escaped, and nothing may be missing."""
    environment = Environment(
        loader=PackageLoader("krepes", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "signed": signed}
    return environment
