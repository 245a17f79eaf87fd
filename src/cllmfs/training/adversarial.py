"""Adversarial perturbations of input embeddings.

Everything is computed in fp32 and is finite, whatever the rows contain. Padding is never perturbed. This file knows
tensors; it knows nothing of models or losses.
"""

from __future__ import annotations

import torch
from torch import Tensor


def neftune_noise(embeds: Tensor, mask: Tensor, alpha: float, generator: torch.Generator | None = None) -> Tensor:
    """Noise for input embeddings (NEFTune, arXiv 2310.05914): uniform in +-alpha / sqrt(length x width).

    Args:
        embeds: ``[B, T, d]``; only their shape, dtype and device are used.
        mask: ``[B, T]`` bool, real tokens; the length of a row is their number.
        generator: source of the noise, on any device.

    Returns:
        ``[B, T, d]`` in the dtype of ``embeds``, without a graph; 0 at padding.
    """
    device = embeds.device if generator is None else generator.device
    noise = torch.rand(embeds.shape, generator=generator, device=device, dtype=torch.float32).to(embeds.device) * 2 - 1
    scale = alpha / (mask.sum(1).clamp(min=1).float() * embeds.shape[2]).sqrt()
    return (noise * scale[:, None, None]).masked_fill(~mask[..., None], 0.0).to(embeds.dtype)


@torch.no_grad()
def fgm_perturbation(gradient: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """A step of L2 norm ``epsilon`` along the gradient of the loss, for each row (arXiv 1605.07725).

    Args:
        gradient: ``[B, T, d]``, the gradient of the loss with respect to the input embeddings.
        mask: ``[B, T]`` bool, real tokens; the rest of the gradient is ignored.

    Returns:
        ``[B, T, d]`` in the dtype of ``gradient``, without a graph; 0 at padding, and for a row whose gradient is 0
        everywhere or not finite somewhere.
    """
    if gradient.numel() == 0:
        return torch.zeros_like(gradient)
    real = gradient.float().masked_fill(~mask[..., None], 0.0)
    usable = real.isfinite().all(2).all(1)[:, None, None]
    real = real.masked_fill(~usable, 0.0)
    # Scaled by the largest entry before squaring: gradients may be tiny or, under loss scaling, huge.
    largest = real.abs().amax((1, 2), keepdim=True)
    real = real / largest.masked_fill(largest == 0, 1.0)
    norm = real.square().sum((1, 2), keepdim=True).sqrt()
    return (epsilon * real / norm.masked_fill(norm == 0, 1.0)).to(gradient.dtype)
