"""python -m krepes."""

from krepes.cli import app

app()
