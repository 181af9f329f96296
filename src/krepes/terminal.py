"""Text of the samples on a terminal: names, ids and notes, which nobody here has written."""

import unicodedata

from rich.console import Console

JOINERS = "\u200c\u200d"  # format characters that words of some scripts need


def visible(text: object, keep: str = "") -> str:
    """Text whose control characters are spelled out, such as \\x1b: they could move the cursor or hide what is there.

    Args:
        text: anything; its str().
        keep: control characters that stay, such as "\\n" in a message of several lines.

    Returns:
        text without control, format (such as those that turn the direction of writing) and surrogate characters, and
        without line and paragraph separators.
    """
    return "".join(c if c in keep or not _controls(c) else c.encode("unicode_escape").decode() for c in str(text))


def _controls(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS


def say(console: Console, text: object, style: str | None = None) -> None:
    """One line as it is: no control characters, no markup, no emoji codes, no highlighting, not wrapped."""
    console.print(visible(text), style=style, highlight=False, soft_wrap=True, markup=False, emoji=False)
