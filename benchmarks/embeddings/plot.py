"""Draws what the contrastive objective does to the hidden states: spans of the dev split before and after tuning.

    python benchmarks/embeddings/plot.py DATA/crossner_politics --output embeddings.png

A span is the mean of its first and last token's states at the contrastive layer. All models see the same sentences:
those that ``--panel`` names, or the base, tuned without the objective, tuned with it. t-SNE (van der Maaten and Hinton
2008) draws the spans; above each panel stand two numbers that need no drawing: how many spans have a nearest neighbour
of their own type (cosine, of all spans), and how many are nearest to their own type's anchor.

Knows the recogniser's insides; knows nothing of decoding.
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

from cllmfs.benchmark.figures import DASHES
from cllmfs.config import Config
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.datasets.splits import load_split, without_twins
from cllmfs.decoding.extraction import Extractor
from cllmfs.encoding.batches import TypeQuery, collate, pack
from cllmfs.model.anchors import contrastive_states
from cllmfs.model.bases import MINI
from cllmfs.model.forward import run
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Example, LabelSet
from cllmfs.training.shots import prepare_shots

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
        states: [S, d] mean of first and last token's state.
        labels: [S] number of each span's type.
        by_anchor: [S] number of the type whose anchor is nearest to the span's first and last token together.
    """

    states: torch.Tensor
    labels: torch.Tensor
    by_anchor: torch.Tensor

    def neighbours_agree(self) -> float:
        """Share of spans whose nearest other span (cosine) is of their type."""
        unit = F.normalize(self.states, dim=1)
        likeness = (unit @ unit.T).fill_diagonal_(-2.0)
        return float((self.labels[likeness.argmax(1)] == self.labels).float().mean())

    def anchors_agree(self) -> float:
        """Share of spans nearest to their own type's anchor."""
        return float((self.by_anchor == self.labels).float().mean())


def gather(extractor: Extractor, examples: Sequence[Example], labels: LabelSet, layer_share: float) -> Spans:
    """The gold spans of the examples, all types asked of every sentence."""
    backbone, decode = extractor.backbone, extractor.config.decode
    window = extractor.window(labels)
    shots = prepare_shots(examples, backbone, extractor.builder, decode.edges, window, decode.overlap_tokens)
    numbers = {label: number for number, label in enumerate(labels)}
    rows = []
    for index, shot in enumerate(shots):
        queries = [
            TypeQuery(query.label, query.ids, shot.gold.get(query.label, ())) for query in extractor.queries(labels)
        ]
        rows += extractor.builder.rows(shot.sentence, queries, index)
    states, golds, nearest = [], [], []
    for group in pack(rows, BATCH_TOKENS):
        batch = collate(group)
        with backbone.at_rest():
            hidden = run(backbone, batch, extractor.bidirectional, backbone.layer_index(layer_share))
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
    """A panel for each model, spans coloured by type."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(panels), 4.4), layout="constrained")
    colours = colormaps["tab20"](np.linspace(0, 1, max(len(names), 2)))
    for axes, (title, spans) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        perplexity = min(30.0, (len(spans.labels) - 1) / 3)
        unit = F.normalize(spans.states, dim=1).numpy()
        points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit)
        for number, name in enumerate(names):
            chosen = points[spans.labels.numpy() == number]
            axes.scatter(*chosen.T, s=7, color=colours[number], label=name, linewidths=0)
        figures = f"neighbour {100 * spans.neighbours_agree():.0f} %, anchor {100 * spans.anchors_agree():.0f} %"
        axes.set_title(f"{title}\n{figures}", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(color="0.8", linestyle=DASHES)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8, markerscale=2)
    figure.savefig(path, dpi=200, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Span representations before and after tuning.")
    parser.add_argument("data", type=Path, help="folder of a data set")
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sentences", type=int, default=200, help="of the dev split that are drawn")
    parser.add_argument(
        "--panel",
        nargs=3,
        action="append",
        metavar=("TITLE", "BASE", "FORM"),
        help=f"a model to draw: a base, and the contrastive form that it is tuned with, or {UNTUNED!r}",
    )
    arguments = parser.parse_args()
    pool, shown = without_twins(load_split(arguments.data, "train")), load_split(arguments.data, "dev")
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
        panels[title] = gather(ner._extractor, shown[: arguments.sentences], labels, Config().loss.contrastive_layer)
        print(f"{title}: neighbour {panels[title].neighbours_agree():.3f}, anchor {panels[title].anchors_agree():.3f}")
    draw(panels, list(labels), arguments.output, arguments.seed)


if __name__ == "__main__":
    main()
