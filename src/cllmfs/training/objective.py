"""What training minimizes: the loss of the answers, and the contrastive loss of the hidden states.

This file knows batches, the model and the losses; it knows nothing of optimizers or data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cllmfs.config import LossConfig
from cllmfs.encoding.batches import IGNORE, PADDING, Batch
from cllmfs.model.anchors import ContrastiveBatch, contrastive_states
from cllmfs.model.backbone import Backbone
from cllmfs.model.forward import forward_batch
from cllmfs.training.adversarial import fgm_perturbation, neftune_noise
from cllmfs.training.contrast import contrastive_loss, cross_view
from cllmfs.training.recipe import Recipe


@dataclass
class LossParts:
    """The losses of a batch, as scalars; gradients are taken of ``total``."""

    total: Tensor
    language: Tensor
    contrastive: Tensor


def answer_logits(backbone: Backbone, batch: Batch, last: Tensor) -> Tensor:
    """Logits [R, Q, C] of the candidates at every answer token; -inf for those that the automaton does not allow.

    ``last`` has the last hidden states [R, T, d].
    """
    rows = torch.arange(len(batch.rows), device=last.device)[:, None]
    logits = backbone.project(last[rows, batch.query], batch.candidates)
    # Padded answer tokens keep their logits: they are ignored, and a row of nothing but -inf would give NaN gradients.
    return logits.masked_fill(~(batch.allowed | (batch.target == IGNORE)[:, :, None]), float("-inf"))


def language_loss(backbone: Backbone, batch: Batch, last: Tensor) -> Tensor:
    """The mean cross-entropy of the answer tokens over the tokens that the decoder may emit; ``last`` is [R, T, d].

    It equals the loss over the whole vocabulary with all other tokens masked out, but the logits of the vocabulary are
    never computed.
    """
    logits = answer_logits(backbone, batch, last)
    return F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), ignore_index=IGNORE)


def batch_loss(backbone: Backbone, batch: Batch, config: LossConfig, recipe: Recipe) -> LossParts:
    """The loss of a batch in training, in the adversarial form that the config names.

    ``neftune`` adds noise to the input embeddings. ``fgm`` runs the batch again with the embeddings moved along the
    gradient of the whole loss (Miyato et al. 2017, arXiv 1605.07725), and takes the mean of both losses. ``fgm-view``
    also contrasts the two runs with each other.
    """
    contrastive = config.contrastive != "none" and config.contrastive_weight > 0
    layer = backbone.layer_index(config.contrastive_layer) if contrastive else None
    if config.adversarial == "none":
        return _loss_parts(backbone, batch, config, layer)[0]
    real = batch.branch != PADDING
    embeds = backbone.embed(batch.ids)
    if config.adversarial == "neftune":
        return _loss_parts(backbone, batch, config, layer, embeds + neftune_noise(embeds, real, recipe.noise_alpha))[0]
    # Frozen embeddings have no graph, so they become a leaf that gets a gradient; trained ones keep their graph.
    clean_embeds = embeds if embeds.requires_grad else embeds.detach().requires_grad_(True)
    clean, view = _loss_parts(backbone, batch, config, layer, clean_embeds)
    if config.adversarial == "fgm-view":  # the two runs are compared later, so the graph of the first is still needed
        (gradient,) = torch.autograd.grad(clean.total, clean_embeds, retain_graph=True)
    else:
        clean.total, gradient = _with_known_gradients(backbone, clean.total, clean_embeds)
        embeds = backbone.embed(batch.ids)
    moved = embeds + fgm_perturbation(gradient.float(), real, recipe.epsilon).to(embeds.dtype)
    shifted, other = _loss_parts(backbone, batch, config, layer, moved)
    total = (clean.total + shifted.total) / 2
    both = (clean.contrastive + shifted.contrastive) / 2
    if config.adversarial == "fgm-view" and view is not None and other is not None:
        across = cross_view(view, other, config.contrastive, temperature=config.temperature)
        total, both = total + config.contrastive_weight * across, both + across
    return LossParts(total, (clean.language + shifted.language) / 2, both)


def _with_known_gradients(backbone: Backbone, total: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
    """A scalar loss whose gradients are already known, and its gradient for the embeddings [R, T, d].

    FGM needs the gradient for the embeddings before the second run, and training needs the gradients for the parameters
    after it. One backward pass gives both, and frees its graph. The loss is then replaced by the sum of p * g over all
    parameters p with gradients g, corrected to the value of the loss: the derivative with respect to p is g again.
    """
    parameters = [parameter for parameter in backbone.model.parameters() if parameter.requires_grad]
    gradient, *others = torch.autograd.grad(total, [embeds, *parameters], allow_unused=True)
    known = zip(parameters, others, strict=True)
    carrier = sum(((parameter * other).sum() for parameter, other in known if other is not None), total.new_zeros(()))
    return carrier - carrier.detach() + total.detach(), gradient


def _loss_parts(
    backbone: Backbone, batch: Batch, config: LossConfig, layer: int | None, embeds: Tensor | None = None
) -> tuple[LossParts, ContrastiveBatch | None]:
    hidden = forward_batch(backbone, batch, layer, embeds)
    language = language_loss(backbone, batch, hidden.last)
    if hidden.layer is None:
        return LossParts(language, language, torch.zeros_like(language)), None
    view = contrastive_states(batch, hidden.layer)
    contrastive = contrastive_loss(config.contrastive, view, temperature=config.temperature)
    return LossParts(language + config.contrastive_weight * contrastive, language, contrastive), view
