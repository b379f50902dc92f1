"""Steps shared out among segments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Segment
from lapflow.hub.arguments import share_steps


def segments(*ends):
    return [Segment(i, a, b, {0: 0.0}) for i, (a, b) in enumerate(zip((0.0, *ends), ends))]


@pytest.mark.parametrize(
    ("total", "ends", "expected"),
    [
        (20, [0.5, 1.0], [10, 10]),
        (21, [0.5, 1.0], [11, 10]),
        (7, [1.0], [7]),
        (10, [0.9, 1.0], [9, 1]),
        (3, [0.98, 0.99, 1.0], [1, 1, 1]),
        (4, [0.98, 0.99, 1.0], [2, 1, 1]),
        (30, [0.7, 1.0], [21, 9]),
        (20, [0.33, 0.67, 1.0], [7, 7, 6]),
    ],
)
def test_by_length(total, ends, expected):
    assert share_steps(total, segments(*ends)) == expected


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6), st.integers(6, 2000))
def test_all_of_them_at_least_one_each_and_near_the_exact_share(lengths, total):
    ends = [sum(lengths[: i + 1]) / sum(lengths) for i in range(len(lengths))]
    steps = share_steps(total, segments(*ends))
    assert sum(steps) == total
    exact = [total * length / sum(lengths) for length in lengths]
    tiny = sum(share < 1 for share in exact)  # each gets more than its share, and others less
    assert all(
        n >= 1 and (n == 1 or abs(n - share) <= 1 + tiny) for n, share in zip(steps, exact, strict=True)
    )


def test_every_segment_needs_one():
    with pytest.raises(ConfigError, match="at least 3"):
        share_steps(2, segments(0.3, 0.6, 1.0))
