"""What a batch costs: the language-model loss on the answers, and the contrastive loss on the hidden states.

Knows batches, the model and the losses; knows nothing of optimisers or data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cllmfs.config import LossConfig
from cllmfs.encoding.batches import IGNORE, PADDING, Batch
from cllmfs.model.anchors import ContrastiveBatch, contrastive_states
from cllmfs.model.backbone import Backbone, Hidden
from cllmfs.model.forward import run
from cllmfs.training.adversarial import fgm_perturbation, neftune_noise
from cllmfs.training.contrast import contrastive_loss, cross_view


@dataclass
class LossParts:
    """Scalars of one batch; ``total`` carries the graph."""

    total: Tensor
    language: Tensor
    contrastive: Tensor


def answer_logits(backbone: Backbone, batch: Batch, last: Tensor, support: str = "automaton") -> Tensor:
    """Logits [R, Q, C] of the candidates at every answer token; -inf where the support does not reach.

    ``automaton`` leaves what the decoder may emit at that step; ``sentence`` leaves every candidate of the row.
    """
    rows = torch.arange(len(batch.rows), device=last.device)[:, None]
    logits = backbone.project(last[rows, batch.query], batch.candidates)
    if support == "automaton":
        open_to = batch.allowed
    else:
        sizes = torch.tensor([len(row.candidates) for row in batch.rows], device=last.device)
        open_to = (torch.arange(logits.shape[2], device=last.device) < sizes[:, None])[:, None, :]
    # Padded answer tokens keep their logits: they are ignored, and a row of -inf alone would give NaN gradients.
    return logits.masked_fill(~(open_to | (batch.target == IGNORE)[:, :, None]), float("-inf"))


def language_loss(backbone: Backbone, batch: Batch, last: Tensor, support: str = "automaton") -> Tensor:
    """Mean cross-entropy of the answer tokens over the tokens that the decoder may emit; ``last`` is [R, T, d].

    Equal to the loss over the whole vocabulary with all other tokens masked out; no vocabulary-wide logits are made.
    """
    logits = answer_logits(backbone, batch, last, support)
    return F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), ignore_index=IGNORE)


def batch_loss(backbone: Backbone, batch: Batch, config: LossConfig, bidirectional: bool) -> LossParts:
    """The loss of a batch in training, with the adversarial form that the config names.

    FGM moves the embeddings along the gradient of all that is minimised (Miyato et al. 2017, arXiv 1605.07725).
    """
    contrastive = config.contrastive != "none" and config.contrastive_weight > 0
    layer = backbone.layer_index(config.contrastive_layer) if contrastive else None
    if config.adversarial == "none":
        return _parts(backbone, batch, config, run(backbone, batch, bidirectional, layer))[0]
    real = batch.branch != PADDING
    embeds = backbone.embed(batch.ids)
    if config.adversarial == "neftune":
        noisy = embeds + neftune_noise(embeds, real, config.noise_alpha)
        return _parts(backbone, batch, config, run(backbone, batch, bidirectional, layer, noisy))[0]
    # Frozen embeddings have no graph and need a leaf to take the gradient at; trained ones keep theirs.
    clean_embeds = embeds if embeds.requires_grad else embeds.detach().requires_grad_(True)
    clean, view = _parts(backbone, batch, config, run(backbone, batch, bidirectional, layer, clean_embeds))
    if config.adversarial == "fgm-view":  # the views are compared, so the graph of the clean one is needed until then
        (gradient,) = torch.autograd.grad(clean.total, clean_embeds, retain_graph=True)
    else:
        clean.total, gradient = _settled(backbone, clean.total, clean_embeds)
        embeds = backbone.embed(batch.ids)
    moved = embeds + fgm_perturbation(gradient.float(), real, config.epsilon).to(embeds.dtype)
    shifted, other = _parts(backbone, batch, config, run(backbone, batch, bidirectional, layer, moved))
    total = (clean.total + shifted.total) / 2
    both = (clean.contrastive + shifted.contrastive) / 2
    if config.adversarial == "fgm-view" and view is not None and other is not None:
        across = cross_view(view, other, config.contrastive, temperature=config.temperature)
        total = total + config.contrastive_weight * across
        both = both + across
    return LossParts(total, (clean.language + shifted.language) / 2, both)


def _settled(backbone: Backbone, total: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
    """The loss with its gradients taken already, and its gradient by the embeddings: one pass back gives both.

    What is returned has the loss's value, and passes the gradients on to the parameters when it is differentiated.
    """
    parameters = [parameter for parameter in backbone.model.parameters() if parameter.requires_grad]
    gradient, *others = torch.autograd.grad(total, [embeds, *parameters], allow_unused=True)
    known = zip(parameters, others, strict=True)
    carrier = sum(((parameter * other).sum() for parameter, other in known if other is not None), total.new_zeros(()))
    return carrier - carrier.detach() + total.detach(), gradient


def _parts(
    backbone: Backbone, batch: Batch, config: LossConfig, hidden: Hidden
) -> tuple[LossParts, ContrastiveBatch | None]:
    language = language_loss(backbone, batch, hidden.last, config.support)
    if hidden.layer is None:
        return LossParts(language, language, torch.zeros_like(language)), None
    view = contrastive_states(batch, hidden.layer)
    contrastive = contrastive_loss(config.contrastive, view, temperature=config.temperature)
    return LossParts(language + config.contrastive_weight * contrastive, language, contrastive), view
