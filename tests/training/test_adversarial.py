"""NEFTune noise and FGM steps."""

from __future__ import annotations

import math

import pytest
import torch

from cllmfs.training.adversarial import fgm_perturbation, neftune_noise


def test_neftune_bound_scale_and_padding() -> None:
    mask = torch.zeros(3, 40, dtype=torch.bool)
    mask[0], mask[1, :10] = True, True
    embeds = torch.zeros(3, 40, 25)
    noise = neftune_noise(embeds, mask, 5.0, torch.Generator().manual_seed(0))
    assert not noise[~mask].any()
    for row, length in ((0, 40), (1, 10)):
        bound, real = 5.0 / math.sqrt(length * 25), noise[row, :length]
        assert 0.95 * bound < real.max().item() <= bound and -bound <= real.min().item() < -0.95 * bound
        # Uniform in +-b: variance b^2 / 3, mean 0.
        assert real.var().item() == pytest.approx(bound**2 / 3, rel=0.15)
        assert abs(real.mean().item()) < 0.1 * bound
    again = neftune_noise(embeds, mask, 5.0, torch.Generator().manual_seed(0))
    other = neftune_noise(embeds, mask, 5.0, torch.Generator().manual_seed(1))
    assert torch.equal(noise, again) and not torch.equal(noise, other)
    assert not neftune_noise(embeds, mask, 0.0).any()
    assert neftune_noise(embeds.bfloat16().requires_grad_(), mask, 5.0).dtype == torch.bfloat16


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_fgm_norm_and_direction(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(2, 4, 3, generator=generator) * scale
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    gradient[1, 2:] = float("nan")
    step = fgm_perturbation(gradient, mask, 0.7)
    assert step.flatten(1).norm(dim=1).tolist() == pytest.approx([0.7, 0.7], rel=1e-5)
    assert not step[~mask].any()
    assert torch.cosine_similarity(step[0].flatten(), (gradient[0] / scale).flatten(), dim=0).item() > 1 - 1e-5


def test_fgm_is_zero_without_a_usable_gradient() -> None:
    gradient = torch.ones(4, 2, 3)
    gradient[0] = 0.0
    gradient[1, 0, 0] = float("nan")
    gradient[2, 1, 2] = float("inf")
    step = fgm_perturbation(gradient.bfloat16(), torch.ones(4, 2, dtype=torch.bool), 1.0)
    assert not step[:3].any() and step.dtype == torch.bfloat16 and not step.requires_grad
    torch.testing.assert_close(step[3].float(), torch.full((2, 3), 6**-0.5), rtol=1e-2, atol=0)
    assert not fgm_perturbation(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool), 1.0).any()
    assert fgm_perturbation(torch.ones(2, 0, 3), torch.ones(2, 0, dtype=torch.bool), 1.0).shape == (2, 0, 3)
