"""Arrow reads on two threads here, whatever OMP_NUM_THREADS says: rows must keep their numbers on several."""

import pyarrow
import pytest


@pytest.fixture(autouse=True, scope="session")
def two_threads():
    before = pyarrow.cpu_count()
    pyarrow.set_cpu_count(2)
    yield
    pyarrow.set_cpu_count(before)
