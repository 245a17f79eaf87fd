"""spaCy: its transition-based ``ner`` on top of a transformer, trained together.

spaCy (https://spacy.io) 3.8 with spacy-transformers 1.4, which loads the encoder from a folder and fine-tunes it. The
encoder is that of the other systems. spacy-transformers needs transformers up to 4.53.2 and therefore an environment of
its own, where cllmfs is installed without its dependencies:

    python -m venv .venv-spacy
    .venv-spacy/bin/pip install -r benchmarks/few_shot/requirements-spacy.txt
    .venv-spacy/bin/pip install --no-deps -e .

Pipeline and optimizer are those that ``spacy init config --pipeline ner --gpu`` writes: a parser of width 64 over the
mean of the subwords of a token; Adam, weight decay 0.01, gradient norm at most 1, dropout 0.1, warmup and linear decay.
Batches have 4 sentences, as for the other systems. Training takes 20 epochs, but at least 300 and at most 3,000 steps;
spaCy's own criterion for stopping needs a dev set, which few shots do not provide. Documents are made from the tokens
of the data set, so offsets are exact. The README states how the learning rate was chosen.

Knows spaCy; a system of ``cllmfs benchmark``, see config.toml.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The libraries read these variables when they are imported.
if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import spacy
from spacy.tokens import Doc
from spacy.training import Example as Pair
from thinc.api import Adam, warmup_linear

from benchmarks.few_shot.baseline import Baseline, Recipe, drawn_batches, main, to_tags, token_spans
from cllmfs.schema import Document, Example, Span


@dataclass(frozen=True)
class SpacyRecipe(Recipe):
    """A recipe that also has the dropout."""

    dropout: float = 0.1


def pipeline(encoder: str) -> Any:
    """An untrained pipeline of transformer and ner, as in spaCy's own template, without rules of any language."""
    nlp = spacy.blank("xx")
    strides = {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 128, "stride": 96}
    transformer = {
        "@architectures": "spacy-transformers.TransformerModel.v3",
        "name": encoder,
        "tokenizer_config": {"use_fast": True},
        "get_spans": strides,
    }
    listener = {
        "@architectures": "spacy-transformers.TransformerListener.v1",
        "grad_factor": 1.0,
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    parser = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": False,
        "tok2vec": listener,
    }
    nlp.add_pipe("transformer", config={"model": transformer})
    nlp.add_pipe("ner", config={"model": parser})
    return nlp


def document(nlp: Any, example: Example, tags: list[str] | None = None) -> Any:
    """A spaCy document with the tokens and the text of the example; ``tags`` has a BIO tag for each token."""
    offsets = example.token_offsets or ()
    words = [example.text[start:end] for start, end in offsets]
    spaces = [example.text[end : end + 1] == " " for _, end in offsets]
    made = Doc(nlp.vocab, words=words, spaces=spaces, ents=tags)
    assert made.text == example.text  # noqa: S101 - otherwise the offsets would differ
    return made


def fine_tune(encoder: str, shots: Sequence[Example], recipe: SpacyRecipe, seed: int) -> Any:
    """Train on the shots and return the pipeline."""
    spacy.util.fix_random_seed(seed)
    nlp = pipeline(encoder)
    tags = [to_tags(token_spans(shot), len(shot.token_offsets or ())) for shot in shots]
    pairs = [Pair(document(nlp, shot), document(nlp, shot, row)) for shot, row in zip(shots, tags, strict=True)]
    nlp.initialize(lambda: pairs)
    steps = recipe.steps(len(pairs))
    optimizer = Adam(
        learn_rate=warmup_linear(recipe.learning_rate, round(recipe.warmup * steps), steps),
        L2=recipe.weight_decay,
        L2_is_weight_decay=True,
        grad_clip=recipe.max_grad_norm,
        use_averages=False,
    )
    for batch in drawn_batches(len(pairs), recipe, seed):
        nlp.update([pairs[index] for index in batch], drop=recipe.dropout, sgd=optimizer)
        optimizer.step_schedules()
    return nlp


def predict(nlp: Any, examples: Sequence[Example], batch_size: int = 32) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    documents = nlp.pipe((document(nlp, example) for example in examples), batch_size=batch_size)
    return [
        Document(made.text, tuple(Span(e.start_char, e.end_char, e.label_, None, e.text) for e in made.ents))
        for made in documents
    ]


PACKAGES = ("spacy", "spacy-transformers", "transformers", "torch")

if __name__ == "__main__":
    main(Baseline("spaCy ner", SpacyRecipe(learning_rate=1e-4), fine_tune, predict, PACKAGES))
