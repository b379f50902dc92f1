"""The soak, shortened. 4 MB over the 200 steps that count are the allocator's; a leak of a network at each
checkpoint is more."""

import re

import pytest

from tests.stress.running import campaign

SHORT = ["--steps", "300", "--every", "10", "--max-growth", "20"]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_memory_files_and_threads_stay(workers):
    code, output = campaign("soak", *SHORT, "--workers", workers)
    assert code == 0, output


def test_a_leak_is_found_out():
    code, output = campaign("soak", *SHORT, "--steps", "150", "--leak")
    assert code == 1, output
    slope, files = re.search(r"([+-][\d.]+) MB per 1,000 steps, .* files {(.*)}, threads", output).groups()
    assert float(slope) > 50
    assert "," in files
