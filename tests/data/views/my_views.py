"""A user's views, for import paths."""


class MyViews:
    """Adds a number."""

    def __init__(self, by: float = 1.0):
        self.by = by

    def __call__(self, batch, generator):
        """A view."""
        return batch + self.by


def twice(batch, generator):
    """A view that is a plain function."""
    return 2 * batch


def factory(by):
    """Makes a view."""
    return MyViews(by)


NUMBER = 3
