"""Every setting, in one place: its name, default, range and meaning.

Settings come in two groups. The sections of :data:`FIXED` say how a model is made: they are saved with it and cannot
change afterwards. The section ``runtime`` says how a model is run, and may change whenever a model is loaded. A TOML
file and ``--set train.steps=300`` use the same names. This file knows nothing of what the settings do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from cllmfs.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    """A table of settings. A value of the wrong type or out of range raises :class:`~cllmfs.errors.ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_message(type(self), error.errors()[0])) from error

    @classmethod
    def section(cls) -> str:
        """The name of the table."""
        return cls.__name__.removesuffix("Config").lower()


class PromptConfig(_Section):
    """How the model is prompted."""

    order: Literal["sentence-first", "type-first"] = Field(
        "sentence-first",
        description="sentence-first encodes a sentence once for all types (a tree); type-first is the order of the "
        "paper and needs one row for each type",
    )
    prefix_attention: Literal["auto", "causal", "bidirectional"] = Field(
        "auto", description="attention between the tokens of the sentence; auto uses what the base was trained with"
    )


class SpansConfig(_Section):
    """What counts as a span."""

    edges: Literal["auto", "word", "token"] = Field(
        "auto",
        description="where a span may begin and end: at the edges of words, or of any token; auto lets the shots "
        "decide",
    )
    nested: Literal["auto"] | bool = Field(
        "auto", description="allow spans inside spans; auto does so where those of the shots nest"
    )


class LoraConfig(_Section):
    """Low-rank adaptation (arXiv 2106.09685), through peft."""

    rank: int = Field(16, ge=1, description="rank of the update matrices")
    alpha: int = Field(32, ge=1, description="the update is scaled by alpha / rank")
    targets: str = Field(
        "auto", description="adapted modules, separated by commas; auto adapts every linear layer of the decoder blocks"
    )
    keep: Share = Field(
        0.0,
        description="the share of the trained update that is kept (arXiv 2109.01903); 0 chooses it by the number of "
        "shots, by what the base knows of their types, and by a dev set where there is one",
    )


class LossConfig(_Section):
    """What training minimizes, besides the loss of the answers."""

    contrastive: Literal["none", "infonce", "ancestor"] = Field(
        "infonce", description="form of the contrastive objective on the hidden states"
    )
    contrastive_weight: float = Field(0.3, ge=0.0, description="weight of the contrastive loss")
    contrastive_layer: Share = Field(0.8, description="depth of the contrasted hidden layer, as a share of all layers")
    temperature: float = Field(0.1, ge=1e-4, description="temperature of the contrastive similarities")
    adversarial: Literal["none", "neftune", "fgm", "fgm-view"] = Field(
        "none", description="perturbation of the input embeddings in training"
    )


class TrainConfig(_Section):
    """How the adapter is trained."""

    learning_rate: float = Field(
        0.0, ge=0.0, description="peak learning rate of AdamW; 0 chooses it by the width of the base"
    )
    steps: int = Field(0, ge=0, description="optimizer steps; 0 chooses them by the number of shots")
    batch_sentences: int = Field(4, ge=1, description="sentences in an optimizer step")
    batch_tokens: int = Field(
        1024, ge=1, description="tokens in one pass, padding included; larger steps accumulate gradients over passes"
    )
    swap_mentions: Share = Field(
        0.7, description="probability that a mention is replaced by another of its type, drawn anew in each epoch"
    )
    replay: int = Field(
        2, ge=0, description="general sentences added to each step, so that the base does not forget other types"
    )
    activation_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="recompute activations in the backward pass, which saves memory and takes a third more time; auto "
        "does so for bases of more than a billion weights",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="number format of the computation in training; auto uses bf16 where the device computes in it; "
        "prediction computes in the format of the weights",
    )
    retention: bool = Field(
        True,
        description="measure how well other types are found before and after training, if the base was trained for "
        "extraction",
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of every random choice")


class CalibrateConfig(_Section):
    """How scores become confidences."""

    folds: int = Field(
        2,
        ge=0,
        description="parts of the shots that are held out in turn to fit confidences, thresholds and lora.keep; each "
        "costs one training on the other parts; below 2, or with too few shots, values expected of the base are used",
    )
    votes: bool = Field(
        True, description="let the contrastive similarities vote on each span, beside the probability of its tokens"
    )


class RuntimeConfig(_Section):
    """How a model is run; all of this may change after training."""

    weights: Literal["auto", "fp32", "bf16", "nf4"] = Field(
        "auto",
        description="number format of the base's weights; auto uses bf16 on a GPU that computes in it, else fp32; nf4 "
        "uses four bits (QLoRA, arXiv 2305.14314) and needs bitsandbytes",
    )
    threshold: Share = Field(
        0.0, description="spans of lower confidence are not reported; 0 uses the thresholds fitted on the shots"
    )
    batch_tokens: int = Field(8192, ge=1, description="tokens in a batch of prediction, padding included")
    window_tokens: int = Field(
        0,
        ge=0,
        description="longest stretch of a text that is read at once, in tokens; 0 uses half the positions of the base, "
        "but at most 512",
    )
    overlap_tokens: int = Field(32, ge=0, description="tokens that neighboring windows of a long text share")


SECTIONS: dict[str, type[_Section]] = {kind.section(): kind for kind in _Section.__subclasses__()}
FIXED = tuple(name for name in SECTIONS if name != "runtime")

# Settings that earlier versions had in another section, with the sections of then and now.
MOVED = {
    "weights": ("model", "runtime"),
    **{name: ("decode", "runtime") for name in ("threshold", "batch_tokens", "window_tokens", "overlap_tokens")},
    **{name: ("decode", "spans") for name in ("edges", "nested")},
}

# The paper's method (arXiv 2408.12834) without what this project adds: one query for each type, the type before the
# sentence, a contrastive and an adversarial term. Rank and alpha come from the public code that the method grew out of.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "prompt": {"order": "type-first", "prefix_attention": "causal"},
        "lora": {"rank": 32, "alpha": 16, "keep": 1.0},
        "loss": {"adversarial": "fgm"},
        "train": {"swap_mentions": 0.0, "replay": 0},
        "calibrate": {"folds": 0, "votes": False},
    }
}


class Setting(NamedTuple):
    """One setting and the values that it may have.

    ``choices`` is empty where any value of the default's type is allowed; ``low`` and ``high`` are inclusive bounds.
    """

    section: str
    name: str
    default: Any
    help: str
    choices: tuple[str | bool, ...]
    low: float | None
    high: float | None

    @property
    def fixed(self) -> bool:
        """Whether training fixes the setting."""
        return self.section in FIXED


def list_settings() -> Iterator[Setting]:
    """All settings, section by section."""
    for section, kind in SECTIONS.items():
        for name, spec in kind.model_fields.items():
            bounds = {key: getattr(each, key) for each in spec.metadata for key in ("ge", "le") if hasattr(each, key)}
            low, high, choices = bounds.get("ge"), bounds.get("le"), _choices(spec.annotation)
            yield Setting(section, name, spec.default, spec.description or "", choices, low, high)


def _choices(annotation: Any) -> tuple[str | bool, ...]:
    """The values that a setting of this type may have; empty if they are not a few strings."""
    if get_origin(annotation) is Literal:
        return tuple(get_args(annotation))
    return tuple(value for kind in get_args(annotation) for value in _choices(kind) or ((True, False) * (kind is bool)))


def written(value: str | bool) -> str:
    """A value as it is written in TOML and on the command line, without quotes."""
    return str(value).lower() if isinstance(value, bool) else value


class Config(BaseModel):
    """All settings. Unknown names, and values out of range, raise :class:`~cllmfs.errors.ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: PromptConfig = PromptConfig()
    spans: SpansConfig = SpansConfig()
    lora: LoraConfig = LoraConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def __init__(self, **sections: Any) -> None:
        for name, value in sections.items():
            if name not in SECTIONS:
                raise ConfigError(f"config: unknown section {name!r}; there are {', '.join(SECTIONS)}")
            if not isinstance(value, SECTIONS[name]):
                kind = SECTIONS[name].__name__
                raise ConfigError(f"config: {name} must be a {kind}, got {value!r:.60}; Config.from_dict takes tables")
        super().__init__(**sections)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> Self:
        """Build from ``{section: {name: value}}``; settings that are not named keep their defaults.

        Raises:
            ConfigError: on an unknown section or name, or a value of the wrong type or out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source}: settings must be a mapping of sections, got {values!r:.60}")
        sections = {}
        for name, content in _in_their_sections(values).items():
            if name not in SECTIONS:
                raise ConfigError(f"{source}: unknown section [{name}]; there are {', '.join(SECTIONS)}")
            if not isinstance(content, Mapping):
                raise ConfigError(f"{source}: [{name}] must be a table of settings, got {content!r:.60}")
            known = SECTIONS[name].model_fields
            for key in content:
                if key not in known:
                    raise ConfigError(f"{source}: unknown setting {name}.{key}; [{name}] has {', '.join(known)}")
            sections[name] = SECTIONS[name](**content)
        return cls(**sections)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a TOML file such as :meth:`to_toml` writes.

        Raises:
            ConfigError: if the file cannot be read, is not TOML, or breaks a rule of :meth:`from_dict`.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: a config must be a readable TOML file in UTF-8: {error!s:.200}") from error
        return cls.from_dict(values, str(path))

    @classmethod
    def preset(cls, name: str) -> Self:
        """The settings of a preset: ``paper`` is the method of arXiv 2408.12834 without this project's additions.

        Raises:
            ConfigError: if there is no such preset.
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
        return cls.from_dict(PRESETS[name], f"preset {name}")

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """``{section: {name: value}}``, with every setting."""
        return self.model_dump()

    def to_toml(self) -> str:
        """TOML with a line of help above each setting; :meth:`from_toml` gives the same config back."""
        lines: list[str] = []
        section = ""
        for setting in list_settings():
            if setting.section != section:
                section = setting.section
                lines += [*([""] if lines else []), f"# {SECTIONS[section].__doc__}", f"[{section}]"]
            choices = f" ({' | '.join(map(written, setting.choices))})" if setting.choices else ""
            value = getattr(getattr(self, section), setting.name)
            lines += [f"# {setting.help}{choices}", tomli_w.dumps({setting.name: value}).strip()]
        return "\n".join([*lines, ""])

    def with_settings(self, assignments: Iterable[str]) -> Self:
        """Apply assignments of the form ``section.name=value``, which ``--set`` takes.

        Raises:
            ConfigError: if an assignment has another form, or :meth:`from_dict` refuses it.
        """
        values = self.to_dict()
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            section, dot, name = path.strip().partition(".")
            if not (equals and dot):
                raise ConfigError(f"--set takes section.name=value, got {assignment!r}")
            section = moved_to(section, name)
            if section not in SECTIONS:
                raise ConfigError(f"--set: unknown section {section!r}; there are {', '.join(SECTIONS)}")
            field = SECTIONS[section].model_fields.get(name)
            named = {written(value): value for value in (_choices(field.annotation) if field else ())}
            value = parse_value(text, getattr(field, "default", ""))
            values[section][name] = named.get(text.strip().lower(), value) if named else value
        return self.from_dict(values, "--set")

    def with_runtime(self, runtime: RuntimeConfig | None) -> Self:
        """The same settings with another ``runtime`` section, where one is given."""
        return self if runtime is None else type(self)(**{**dict(self), "runtime": runtime})


def moved_to(section: str, name: str) -> str:
    """The section in which a setting is now; the same, unless it has moved."""
    before, after = MOVED.get(name, ("", ""))
    return after if section == before else section


def _in_their_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same tables, with settings that have moved in their new sections."""
    tables: dict[str, Any] = {}
    for section, content in values.items():
        if section in SECTIONS or not isinstance(content, Mapping) or not content:
            tables[section] = {**tables.get(section, {}), **content} if isinstance(content, Mapping) else content
            continue
        for name, value in content.items():
            tables.setdefault(moved_to(section, name), {})[name] = value
    return tables


def parse_value(text: str, like: Any) -> Any:
    """A value from the command line: text where ``like`` is text, otherwise a number, true or false, if it is one."""
    text = text.strip()
    if isinstance(like, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in (int, float) if isinstance(like, int | float) else ():
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # the check of the type reports it


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "a string"}


def _message(kind: type[_Section], error: ErrorDetails) -> str:
    """What pydantic found wrong, in the form of this project's messages."""
    name, problem, context = error["loc"][0], error["type"], error.get("ctx", {})
    section, got = kind.section(), f"got {error['input']!r}"
    path = f"{section}.{name}"
    if problem == "extra_forbidden":
        return f"unknown setting {path}; [{section}] has {', '.join(kind.model_fields)}"
    if problem == "literal_error":
        return (
            f"{path} must be one of {', '.join(map(written, _choices(kind.model_fields[str(name)].annotation)))}, {got}"
        )
    if problem == "finite_number":
        return f"{path} must be a finite number, {got}"
    if "ge" in context or "le" in context:
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return f"{path} must be {bound}, {got}"
    return f"{path} must be {_KINDS[problem.partition('_')[0]]}, {got}"
