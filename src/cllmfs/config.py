"""Every knob, in one place: frozen dataclasses with a help line a field, read from and written to one TOML file.

Knows names, types, ranges and defaults; knows nothing of what the knobs do. ``--set train.learning_rate=1e-3`` and the
TOML file use the same names.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cllmfs.errors import ConfigError


def knob(
    default: Any, text: str, *, choices: tuple[str, ...] = (), low: float | None = None, high: float | None = None
) -> Any:
    """A config field with its help line and its range; the range is inclusive."""
    return field(default=default, metadata={"help": text, "choices": choices, "low": low, "high": high})


@dataclass(frozen=True)
class _Section:
    """Range and type checks shared by all sections, run at construction."""

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if _kind(spec) is float and type(value) is int:
                object.__setattr__(self, spec.name, float(value))
            _check_value(f"{self._name()}.{spec.name}", getattr(self, spec.name), spec)

    @classmethod
    def _name(cls) -> str:
        return cls.__name__.removesuffix("Config").lower()


@dataclass(frozen=True)
class ModelConfig(_Section):
    """How the base is held."""

    weights: str = knob(
        "auto",
        "what the base's weights are held in; auto: bf16 on a GPU that computes in it, else fp32; nf4: four bits "
        "(QLoRA, arXiv 2305.14314), which needs bitsandbytes",
        choices=("auto", "fp32", "bf16", "nf4"),
    )


@dataclass(frozen=True)
class PromptConfig(_Section):
    """How a query is written."""

    order: str = knob(
        "sentence-first",
        "sentence-first shares the sentence between all types (a tree); type-first is "
        "the paper's order, one row a type",
        choices=("sentence-first", "type-first"),
    )
    prefix_attention: str = knob(
        "auto",
        "attention inside the sentence block; auto asks the base model",
        choices=("auto", "causal", "bidirectional"),
    )
    descriptions: bool = knob(True, "put a label's description into its query, where there is one")
    tree: str = knob(
        "auto",
        "share the sentence between types in one row; auto does so where the model can",
        choices=("auto", "on", "off"),
    )


@dataclass(frozen=True)
class LoraConfig(_Section):
    """Low-rank adaptation (arXiv 2106.09685), through peft."""

    rank: int = knob(16, "rank of the update matrices", low=1)
    alpha: int = knob(32, "scale of the update is alpha / rank (alpha / sqrt(rank) with rslora)", low=1)
    dropout: float = knob(0.0, "dropout on the adapter's input", low=0.0, high=0.9)
    targets: str = knob("auto", "auto finds every linear layer of the decoder blocks; or module names, comma-separated")
    rslora: bool = knob(False, "rank-stabilised scaling (arXiv 2312.03732)")
    dora: bool = knob(False, "weight-decomposed adaptation (arXiv 2402.09353)")
    keep: float = knob(
        0.0,
        "share of the trained update that is kept, the weights being moved back towards the base (arXiv 2109.01903); 0 "
        "chooses it: by the number of shots and what the base knows of them, unless a dev set or a part of many shots "
        "tells better",
        low=0.0,
        high=1.0,
    )


@dataclass(frozen=True)
class LossConfig(_Section):
    """What is minimised."""

    support: str = knob(
        "automaton",
        "tokens the language-model loss is normalised over: those the decoder may emit at "
        "that step, or all tokens of the sentence and the delimiters",
        choices=("automaton", "sentence"),
    )
    contrastive: str = knob(
        "infonce",
        "form of the contrastive objective on the hidden states",
        choices=("none", "ancestor", "infonce", "span", "supcon", "symmetric"),
    )
    contrastive_weight: float = knob(0.3, "weight of the contrastive loss beside the language-model loss", low=0.0)
    contrastive_layer: float = knob(
        0.8, "depth of the hidden layer it works on, as a share of all layers", low=0.0, high=1.0
    )
    temperature: float = knob(0.1, "temperature of the contrastive similarities", low=1e-4)
    adversarial: str = knob(
        "none", "perturbation of the input embeddings in training", choices=("none", "neftune", "fgm", "fgm-view")
    )
    noise_alpha: float = knob(5.0, "neftune: noise magnitude alpha, scaled by 1/sqrt(length x width)", low=0.0)
    epsilon: float = knob(1.0, "fgm: L2 norm of the perturbation of a row's embeddings", low=0.0)


@dataclass(frozen=True)
class TrainConfig(_Section):
    """The optimisation."""

    learning_rate: float = knob(0.0, "peak learning rate of AdamW; 0 chooses it by the width of the base", low=0.0)
    steps: int = knob(0, "optimiser steps; 0 chooses them from the number of shots", low=0)
    batch_sentences: int = knob(4, "sentences in an optimiser step", low=1)
    batch_tokens: int = knob(
        1024,
        "tokens passed at once, padding included; a step's gradients are accumulated over as many passes as it needs",
        low=1,
    )
    negatives: int = knob(
        -1, "absent types asked of a sentence, drawn anew each epoch; -1 chooses 8, or 20 of many shots", low=-1
    )
    swap_mentions: float = knob(
        0.7, "probability of another mention of its type in a mention's place, drawn anew each epoch", low=0.0, high=1.0
    )
    replay: int = knob(2, "general sentences of the package in an optimiser step, against forgetting", low=0)
    warmup: float = knob(0.1, "share of the steps in which the rate rises linearly from 0", low=0.0, high=1.0)
    schedule: str = knob(
        "linear", "course of the rate after the warm-up", choices=("linear", "cosine", "constant_with_warmup")
    )
    weight_decay: float = knob(0.01, "decoupled weight decay", low=0.0)
    max_grad_norm: float = knob(1.0, "gradients are scaled down to this L2 norm", low=0.0)
    evaluate_every: int = knob(0, "steps between evaluations on the dev set; 0 makes about ten of them", low=0)
    patience: int = knob(3, "evaluations without a better dev F1 before training stops", low=1)
    checkpoint_every: int = knob(50, "steps between checkpoints", low=1)
    activation_checkpointing: str = knob(
        "auto",
        "compute activations anew on the way back instead of keeping them, for less memory and a third more time; auto "
        "does so for bases of over a billion weights",
        choices=("auto", "on", "off"),
    )
    precision: str = knob("auto", "auto takes bf16 where the device computes in it", choices=("auto", "fp32", "bf16"))
    seed: int = knob(0, "seed of every random choice", low=0)


@dataclass(frozen=True)
class DecodeConfig(_Section):
    """How spans are read off the model."""

    edges: str = knob(
        "word", "where spans may begin and end: at words' edges, or at any token's", choices=("word", "token")
    )
    nested: bool = knob(False, "allow spans inside spans")
    opening: str = knob(
        "first",
        "where a span is opened: best, at the most probable place if that outweighs ending; first, at the leftmost "
        "place with at least the probability decode.open_at of a span beginning there if none began before it",
        choices=("best", "first"),
    )
    open_at: float = knob(0.1, "probability from which opening = first opens a span", low=0.0, high=1.0)
    end_bias: float = knob(0.0, "added to the logit of ending the answer; below 0 finds more spans")
    threshold: float = knob(
        0.0, "spans of lower confidence are dropped; 0 leaves it to the fitted thresholds", low=0.0, high=1.0
    )
    batch_tokens: int = knob(8192, "tokens in a decoding batch, padding included", low=1)
    window_tokens: int = knob(0, "sentence tokens read at once; 0 takes half the model's positions, at most 512", low=0)
    overlap_tokens: int = knob(32, "sentence tokens that neighbouring windows of a long text share", low=0)


@dataclass(frozen=True)
class CalibrateConfig(_Section):
    """How far scores are trusted."""

    folds: int = knob(
        2,
        "parts of the shots that are left out in turn to fit confidences, thresholds and lora.keep; each costs a "
        "training on the rest; below 2, or with too few shots, the expected values below hold",
        low=0,
    )
    slope: float = knob(
        0.42, "factor on the log-odds of a score (the inverse of a temperature), expected before fitting", low=0.01
    )
    shift: float = knob(-0.55, "added to the log-odds of a score, expected before fitting")
    vote: float = knob(
        0.5,
        "weight of the contrastive vote on a span (the log of its type's share by the similarity of hidden states) "
        "beside its score's log-odds, expected before fitting and of a base without shots; 0 lets nothing vote",
        low=0.0,
    )
    threshold: float = knob(0.2, "confidence from which a span is reported, expected before fitting", low=0.0, high=1.0)
    scarce_shift: float = knob(-1.0, "shift where shots are too few to fit anything: below three mentions a type")
    scarce_threshold: float = knob(0.1375, "threshold where shots are too few to fit anything", low=0.0, high=1.0)
    zero_shot_slope: float = knob(0.35, "slope of a base without shots", low=0.01)
    zero_shot_shift: float = knob(-1.2, "shift of a base without shots")
    zero_shot_threshold: float = knob(0.15, "threshold of a base without shots", low=0.0, high=1.0)


SECTIONS: dict[str, type[_Section]] = {
    "model": ModelConfig,
    "prompt": PromptConfig,
    "lora": LoraConfig,
    "loss": LossConfig,
    "train": TrainConfig,
    "decode": DecodeConfig,
    "calibrate": CalibrateConfig,
}


@dataclass(frozen=True)
class Config:
    """All settings. Unknown names and values out of range raise :class:`~cllmfs.errors.ConfigError`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> Config:
        """Build from ``{section: {name: value}}``; what is not named keeps its default.

        Raises:
            ConfigError: on an unknown section or name, or a value of the wrong type or range.
        """
        sections: dict[str, Any] = {}
        for name, content in values.items():
            if name not in SECTIONS:
                raise ConfigError(f"{source}: unknown section [{name}]; there are {', '.join(SECTIONS)}")
            if not isinstance(content, Mapping):
                raise ConfigError(f"{source}: [{name}] must be a table of settings, got {content!r}")
            specs = {spec.name: spec for spec in dataclasses.fields(SECTIONS[name])}
            for key in content:
                if key not in specs:
                    raise ConfigError(f"{source}: unknown setting {name}.{key}; [{name}] has {', '.join(specs)}")
            sections[name] = SECTIONS[name](**content)
        return cls(**sections)

    @classmethod
    def from_toml(cls, path: str | Path) -> Config:
        """Read a TOML file as written by :meth:`to_toml`.

        Raises:
            ConfigError: if the file cannot be read, is no TOML, or breaks a rule of :meth:`from_dict`.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: a config must be a readable TOML file in UTF-8: {error}") from error
        return cls.from_dict(values, str(path))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """``{section: {name: value}}``, every setting named."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """TOML text with a help line above each setting; :meth:`from_toml` gives the same config back."""
        lines: list[str] = []
        for name in SECTIONS:
            section = getattr(self, name)
            lines.append(f"[{name}]")
            for spec in dataclasses.fields(section):
                choices = f" ({' | '.join(spec.metadata['choices'])})" if spec.metadata["choices"] else ""
                lines.append(f"# {spec.metadata['help']}{choices}")
                lines.append(f"{spec.name} = {_toml_value(getattr(section, spec.name))}")
            lines.append("")
        return "\n".join(lines)

    def with_settings(self, assignments: Iterable[str]) -> Config:
        """Apply ``section.name=value`` strings, as ``--set`` takes them.

        Raises:
            ConfigError: if a string has another form or :meth:`from_dict` refuses it.
        """
        values = self.to_dict()
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            section, dot, name = path.strip().partition(".")
            if not (equals and dot):
                raise ConfigError(f"--set takes section.name=value, got {assignment!r}")
            if section not in SECTIONS:
                raise ConfigError(f"--set: unknown section {section!r}; there are {', '.join(SECTIONS)}")
            specs = {spec.name: spec for spec in dataclasses.fields(SECTIONS[section])}
            values[section][name] = _parse(path.strip(), text.strip(), specs[name]) if name in specs else text
        return Config.from_dict(values, "--set")


def _kind(spec: dataclasses.Field[Any]) -> type[Any]:
    """A setting's type: its default's, since every setting has one."""
    return type(spec.default)


def _parse(name: str, text: str, spec: dataclasses.Field[Any]) -> Any:
    """Turn a string from the command line into the setting's type."""
    kind = _kind(spec)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{name} must be true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise ConfigError(f"{name} must be {_kind_name(kind)}, got {text!r}") from error


def _check_value(name: str, value: Any, spec: dataclasses.Field[Any]) -> None:
    kind = _kind(spec)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{name} must be {_kind_name(kind)}, got {value!r}")
    choices, low, high = (spec.metadata[key] for key in ("choices", "low", "high"))
    if choices and value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value!r}")
    if low is not None and value < low:
        raise ConfigError(f"{name} must be at least {low}, got {value!r}")
    if high is not None and value > high:
        raise ConfigError(f"{name} must be at most {high}, got {value!r}")


def _kind_name(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[kind]


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON lets stand.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
