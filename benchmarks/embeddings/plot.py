"""Draws the effect of the contrastive objective on hidden states: spans of a dev split before and after tuning.

    python -m benchmarks.embeddings.plot DATA/crossner_politics --output embeddings.png

A span is represented by the mean state of its first and last token at the contrastive layer. All models read the same
sentences. The models are those that ``--panel`` names; by default the base, the base tuned without the objective, and
the base tuned with it. Spans are drawn by t-SNE (van der Maaten and Hinton 2008). The title of each panel states two
figures that do not depend on the drawing: the share of spans whose nearest neighbor among all spans (by cosine) has the
same type, and the share of spans that are nearest to the anchor of their own type.

Knows the inner parts of the recognizer; knows nothing of decoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.manifold import TSNE

from cllmfs.config import Config
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.datasets.splits import load_split, without_duplicates
from cllmfs.decoding.extraction import Extractor
from cllmfs.encoding.batches import collate, pack
from cllmfs.model.anchors import contrastive_states
from cllmfs.model.bases import MINI
from cllmfs.model.forward import forward_batch
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Example, LabelSet
from cllmfs.training.shots import encode_shots

BATCH_TOKENS = 4096
UNTUNED = "untuned"
PANELS = (
    ("the base", MINI, UNTUNED),
    ("tuned, no contrast", MINI, "none"),
    ("tuned, with contrast", MINI, "infonce"),
)


@dataclass(frozen=True)
class Spans:
    """Gold spans as vectors.

    Attributes:
        states: [S, d] mean state of the first and the last token.
        labels: [S] the number of each span's type.
        by_anchor: [S] the number of the type whose anchor has the largest summed cosine with the two tokens.
    """

    states: torch.Tensor
    labels: torch.Tensor
    by_anchor: torch.Tensor

    def neighbors_agree(self) -> float:
        """The share of spans whose nearest other span (by cosine) has the same type."""
        unit = F.normalize(self.states, dim=1)
        likeness = (unit @ unit.T).fill_diagonal_(-2.0)
        return float((self.labels[likeness.argmax(1)] == self.labels).float().mean())

    def anchors_agree(self) -> float:
        """The share of spans that are nearest to the anchor of their own type."""
        return float((self.by_anchor == self.labels).float().mean())


def gather(extractor: Extractor, examples: Sequence[Example], labels: LabelSet, layer_share: float) -> Spans:
    """The gold spans of the examples; all types are asked of every sentence."""
    backbone, encoder = extractor.backbone, extractor.encoder
    shots = encode_shots(examples, encoder, encoder.window(encoder.queries(labels)))
    numbers = {label: number for number, label in enumerate(labels)}
    rows = []
    for index, shot in enumerate(shots):
        queries = [encoder.query(label, label, text, shot.gold.get(label, ())) for label, text in labels.items()]
        rows += encoder.rows(shot.sentence, queries, index)
    states, golds, nearest = [], [], []
    for group in pack(rows, BATCH_TOKENS):
        batch = collate(group)
        with backbone.at_rest():
            hidden = forward_batch(backbone, batch, backbone.layer_index(layer_share))
        view = contrastive_states(batch, hidden.layer)
        owners = torch.tensor([numbers[label] for label in batch.labels])
        anchors = F.normalize(view.anchors.float(), dim=1)
        for anchor, first, last in view.spans.tolist():
            row = int(view.rows[anchor])
            ends = F.normalize(view.states[row, [first, last]].float(), dim=1)
            asked = (view.rows == row).nonzero()[:, 0]
            likeness = (anchors[asked] @ ends.T).sum(1)
            states.append(view.states[row, [first, last]].float().mean(0))
            golds.append(int(owners[anchor]))
            nearest.append(int(owners[asked[likeness.argmax()]]))
    return Spans(torch.stack(states), torch.tensor(golds), torch.tensor(nearest))


def draw(panels: dict[str, Spans], names: Sequence[str], path: Path, seed: int) -> None:
    """Draw one panel for each model, with a color for each type."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(panels), 4.4), layout="constrained")
    colors = colormaps["tab20"](np.linspace(0, 1, max(len(names), 2)))
    for axes, (title, spans) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        perplexity = min(30.0, (len(spans.labels) - 1) / 3)
        unit = F.normalize(spans.states, dim=1).numpy()
        points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit)
        for number, name in enumerate(names):
            chosen = points[spans.labels.numpy() == number]
            axes.scatter(*chosen.T, s=7, color=colors[number], label=name, linewidths=0)
        figures = f"neighbor {100 * spans.neighbors_agree():.0f} %, anchor {100 * spans.anchors_agree():.0f} %"
        axes.set_title(f"{title}\n{figures}", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(color="0.8")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8, markerscale=2)
    figure.savefig(path, dpi=200, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Span representations before and after tuning.")
    parser.add_argument("data", type=Path, help="folder of a data set")
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sentences", type=int, default=200, help="number of sentences of the dev split")
    parser.add_argument(
        "--panel",
        nargs=3,
        action="append",
        metavar=("TITLE", "BASE", "FORM"),
        help=f"a model to draw: its base, and the contrastive form for tuning or {UNTUNED!r}",
    )
    arguments = parser.parse_args()
    pool, shown = without_duplicates(load_split(arguments.data, "train")), load_split(arguments.data, "dev")
    labels = LabelSet.of_examples([*pool, *shown])
    shots = sample_k_shot(pool, arguments.k, arguments.seed)
    panels = {}
    for title, base, form in arguments.panel or PANELS:
        config = Config().with_settings([f"train.seed={arguments.seed}", "calibrate.folds=0"])
        if form == UNTUNED:
            ner = EntityRecognizer(base, config=config)
        else:
            ner = EntityRecognizer(base, config=config.with_settings([f"loss.contrastive={form}"]))
            ner.fit(shots, labels=labels)
        ner._backbone.adapters.activate(ner._adapter)
        panels[title] = gather(ner._extractor, shown[: arguments.sentences], labels, Config().loss.contrastive_layer)
        print(f"{title}: neighbor {panels[title].neighbors_agree():.3f}, anchor {panels[title].anchors_agree():.3f}")
    draw(panels, list(labels), arguments.output, arguments.seed)


if __name__ == "__main__":
    main()
