"""Text of the samples reaches the terminal without control characters, markup or emoji codes."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from krepes.progress import Progress
from krepes.terminal import say, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b31m", r"\x9b31m"),
        ("right\u202eto\u2066left", r"right\u202eto\u2066left"),
        ("\u2028line", r"\u2028line"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("half\udc80", r"half\udc80"),
        ("Zürich می‌خواهم [red]", "Zürich می‌خواهم [red]"),
        (3, "3"),
    ],
)
def test_control_characters_are_spelled_out(text, shown):
    assert visible(text) == shown


def test_a_message_may_keep_its_line_breaks():
    assert visible("a\n\x1bb", keep="\n") == "a\n\\x1bb"


@given(st.text())
def test_nothing_that_controls_a_terminal_is_left_and_plain_text_stays(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    if text.isprintable() and text.isascii():
        assert shown == text


def said(write) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=40)
    write(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_line_is_printed_as_it_is():
    text = ":smile: [bold]x[/bold] \x1b[31m" + " long" * 20  # rich before 15 drops a space at the end
    assert said(lambda console: say(console, text)) == text.replace("\x1b", "\\x1b") + "\n"
    assert said(lambda console: Progress(console).say(text)) == text.replace("\x1b", "\\x1b") + "\n"
