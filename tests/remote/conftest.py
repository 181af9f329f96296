"""An empty object store, and a cache of the test's own."""

import pytest

from tests.remote.object_store import emptied


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KREPES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store():
    yield emptied()
    emptied()
