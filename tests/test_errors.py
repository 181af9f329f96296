"""A warning stands at the user's line, however deep in krepes it comes up."""

import sys
import threading
import warnings

import pytest

from krepes.errors import KrepesWarning, warn

SCOPE = {"__name__": "krepes.some.module", "warn": warn}  # code of krepes, as far as `warn` can tell
exec("def inside(depth): inside(depth - 1) if depth else warn('said')", SCOPE)
inside = SCOPE["inside"]


@pytest.mark.parametrize("depth", [0, 1, 20])
def test_the_line_is_that_of_the_caller(depth):
    line = sys._getframe().f_lineno + 2
    with pytest.warns(KrepesWarning, match="said") as caught:
        inside(depth)
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]


def test_a_thread_changes_nothing():
    found = []

    def work():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            inside(3)
        found.extend(str(w.message) for w in caught)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["said"]


def test_it_can_be_made_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error", KrepesWarning)
        with pytest.raises(KrepesWarning, match="said"):
            inside(2)
