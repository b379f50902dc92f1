"""Shared set-up: one thread per worker and per process that it starts (two workers share two cores), a
hypothesis profile without wall-clock limits, the mark `slow`, and a module's memory given back at its end."""

import ctypes
import gc
import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
settings.register_profile(
    "lapflow", deadline=None, max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lapflow")

SLOW = (
    "tests/cli/test_compare.py",
    "tests/hub/",
    "tests/plugins/test_conformance.py",
    "tests/recipes/",
    "tests/stress/",
    "tests/test_documents.py",
    "tests/test_extras.py",
    "tests/test_performance_page.py",
)
"""Whole files and folders that take minutes."""


def pytest_collection_modifyitems(items):
    """What `make check` leaves out: `SLOW`, and every test of an xdist group, since these start processes."""
    for item in items:
        if item.nodeid.startswith(SLOW) or item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def leave_nothing():
    """Compiled graphs, figures and freed pages of a module do not stay with the worker."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
