"""What is uploaded, and how. Without a GPU the CUDA branch is held by what it asks torch for."""

import pytest
import torch

from lapflow.util.transfer import upload


def test_on_one_device_it_is_a_cast():
    x = torch.randn(3, 2)
    assert upload(x, "cpu") is x
    assert torch.equal(upload(x, torch.device("cpu"), torch.bfloat16), x.bfloat16())
    assert upload(x, "meta").device.type == "meta"


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_to_a_gpu_it_goes_through_page_locked_memory_and_does_not_wait(monkeypatch, device):
    x, pinned, asked = torch.randn(3), torch.randn(3), []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append(self) or pinned)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, **how: asked.append((self, how)))
    upload(x, device, torch.bfloat16)
    assert asked[0] is x
    assert asked[1][0] is pinned
    assert asked[1][1] == {"device": device, "dtype": torch.bfloat16, "non_blocking": True}
