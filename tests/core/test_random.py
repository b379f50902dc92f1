"""Random numbers are pure functions of their key."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lapflow.util.random import keyed_generator, rand, randn


@given(a=st.tuples(st.integers(), st.text(max_size=5)), b=st.tuples(st.integers(), st.text(max_size=5)))
def test_streams_are_functions_of_the_key(a, b):
    draw = [torch.rand(4, generator=keyed_generator(*key)) for key in (a, a, b)]
    assert torch.equal(draw[0], draw[1])
    assert torch.equal(draw[0], draw[2]) == (a == b)


def test_per_sample_draws_do_not_depend_on_the_batch():
    def generators():
        return [keyed_generator(i) for i in range(5)]

    whole = randn((5, 2, 3), generators(), dtype=torch.float32, device="cpu")
    part = randn((2, 2, 3), generators()[3:], dtype=torch.float32, device="cpu")
    assert torch.equal(whole[3:], part)
    assert rand((5,), generators(), dtype=torch.float32, device="cpu").shape == (5,)


def test_narrow_dtypes_round_the_float32_draw():
    wide, narrow = (
        randn((64,), keyed_generator(0), dtype=d, device="cpu") for d in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(wide.bfloat16(), narrow)
