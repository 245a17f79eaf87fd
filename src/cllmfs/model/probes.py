"""Finds out by trying what a model does: whether it runs trees, is causal, or scales its logits.

A probe runs a few arbitrary tokens through the model and compares the outcomes. No list of architectures is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cllmfs.encoding.batches import PREFIX, tree_mask

if TYPE_CHECKING:
    from cllmfs.model.backbone import Backbone


def measure_logit_scale(backbone: Backbone, cap: float | None) -> float:
    """The factor from the output embedding's products to the model's logits before their cap, by least squares."""
    caught: list[Tensor] = []
    ids = torch.tensor([[3, 7, 5, 2]], device=backbone.device) % backbone.vocabulary
    handle = backbone.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: caught.append(logits)
    )
    try:
        with backbone.at_rest():
            full = backbone.model(input_ids=ids, use_cache=False).logits.double()
    finally:
        handle.remove()
    raw = caught[0].double()
    if cap:  # undone only where the hyperbolic tangent is not yet flat
        inside = full.abs() < 0.8 * cap
        raw, full = raw[inside], torch.atanh(full[inside] / cap) * cap
    scale = float((raw * full).sum() / raw.square().sum())
    return 1.0 if not abs(scale - 1.0) > 0.01 else scale  # a factor this close to 1 is rounding


def runs_trees(backbone: Backbone) -> bool:
    """Whether a tree of two branches gives the same states as its branches in rows of their own."""
    config = backbone.model.config.get_text_config()
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return False
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < backbone.max_positions:
        return False
    # The first branch is long, so that a model that ignores position ids is far off in the second.
    shared, long, short = 5, 24, 3
    ids = [(7 * column + 3) % min(backbone.vocabulary, 101) for column in range(shared + long + short)]
    marks = [PREFIX] * shared + [0] * long + [1] * short
    places = [*range(shared + long), *range(shared, shared + short)]

    def as_row(values: list[int]) -> Tensor:
        return torch.tensor([values], device=backbone.device)

    try:
        tree = backbone.forward(as_row(ids), tree_mask(as_row(marks), False), as_row(places)).last[0].float()
        for columns in ([*range(shared + long)], [*range(shared), *range(shared + long, len(ids))]):
            row = as_row([ids[column] for column in columns])
            plain = backbone.forward(row, torch.ones_like(row, dtype=torch.bool), None).last[0].float()
            scale = plain.abs().max().clamp(min=1e-6)
            if not bool(((tree[columns] - plain).abs().max() / scale) < backbone.tolerance):
                return False
    except (TypeError, ValueError, RuntimeError, NotImplementedError, IndexError, AttributeError):
        return False
    return True


def is_causal(backbone: Backbone) -> bool:
    """Whether two plain rows that differ only in their last token have the same states before it."""
    ids = torch.tensor([[3, 7, 5, 2], [3, 7, 5, 9]], device=backbone.device) % backbone.vocabulary
    with backbone.at_rest():
        states = backbone.forward(ids, torch.ones_like(ids, dtype=torch.bool), None).last[:, :3].float()
    return bool((states[0] - states[1]).abs().max() <= backbone.tolerance * states.abs().max())
