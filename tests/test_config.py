"""Settings: the way to TOML and back, what the command line may say, and each message to the user."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.config import (
    SECTIONS,
    CalibrateConfig,
    Config,
    DecodeConfig,
    LoraConfig,
    LossConfig,
    ModelConfig,
    PromptConfig,
    TrainConfig,
)
from cllmfs.errors import ConfigError

KNOBS = [(section, spec) for section, kind in SECTIONS.items() for spec in dataclasses.fields(kind)]
NAMES = {section: ", ".join(spec.name for spec in dataclasses.fields(kind)) for section, kind in SECTIONS.items()}


def values_of(spec: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    """Every value that a setting may have."""
    choices, low, high = (spec.metadata[key] for key in ("choices", "low", "high"))
    if choices:
        return st.sampled_from(choices)
    if isinstance(spec.default, bool):
        return st.booleans()
    if isinstance(spec.default, int):
        return st.integers(low, high)
    if isinstance(spec.default, float):
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    return st.text(st.characters(exclude_categories=["Cs"]))


def configs() -> st.SearchStrategy[Config]:
    """Configs with any of the settings changed."""
    tables = {
        name: st.fixed_dictionaries({}, optional={spec.name: values_of(spec) for spec in dataclasses.fields(kind)})
        for name, kind in SECTIONS.items()
    }
    return st.fixed_dictionaries({}, optional=tables).map(Config.from_dict)


@given(configs())
def test_toml_round_trip(config: Config) -> None:
    text = config.to_toml()
    assert tomllib.loads(text) == config.to_dict()
    assert Config.from_dict(tomllib.loads(text)) == config


@given(configs())
def test_dict_round_trip(config: Config) -> None:
    assert Config.from_dict(config.to_dict()) == config


def test_toml_files(tmp_path: Path) -> None:
    config = Config().with_settings(["train.steps=7", "lora.targets=q_proj,v_proj", "decode.nested=true"])
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert Config.from_toml(path) == Config.from_toml(str(path)) == config
    path.write_text("[train]\nlearning_rate = 1\n", encoding="utf-8")
    assert Config.from_toml(path) == Config(train=TrainConfig(learning_rate=1.0))
    path.write_text("", encoding="utf-8")
    assert Config.from_toml(path) == Config()


def test_toml_explains_each_setting() -> None:
    lines = Config().to_toml().splitlines()
    assert [line for line in lines if line.startswith("[")] == [f"[{name}]" for name in SECTIONS]
    settings = [(above, line) for above, line in itertools.pairwise(lines) if line and line[0] not in "#["]
    for (_, spec), (above, line) in zip(KNOBS, settings, strict=True):
        assert line.startswith(f"{spec.name} = ")
        assert above.startswith(f"# {spec.metadata['help']}")
    assert "# allow spans inside spans\nnested = false\n" in Config().to_toml()
    assert '(word | token)\nedges = "word"\n' in Config().to_toml()


@pytest.mark.parametrize(("section", "spec"), KNOBS, ids=[f"{section}.{spec.name}" for section, spec in KNOBS])
def test_every_setting_is_explained_and_in_its_range(section: str, spec: dataclasses.Field[Any]) -> None:
    text = spec.metadata["help"]
    assert len(text.split()) >= 3 and "\n" not in text and text == text.strip() and not text.endswith(".")
    assert type(spec.default) in (bool, int, float, str)
    if spec.metadata["choices"]:
        assert spec.default in spec.metadata["choices"]
    assert getattr(getattr(Config(), section), spec.name) == spec.default


def test_sections_are_the_configs_fields() -> None:
    assert [spec.name for spec in dataclasses.fields(Config)] == list(SECTIONS)
    kinds = {
        "model": ModelConfig,
        "prompt": PromptConfig,
        "lora": LoraConfig,
        "loss": LossConfig,
        "train": TrainConfig,
        "decode": DecodeConfig,
        "calibrate": CalibrateConfig,
    }
    assert kinds == SECTIONS


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("assignment", "section", "name", "value"),
    [
        ("train.learning_rate=1e-3", "train", "learning_rate", 1e-3),
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        (" train.steps = 20 ", "train", "steps", 20),
        ("train.negatives=-1", "train", "negatives", -1),
        ("decode.nested=true", "decode", "nested", True),
        ("prompt.descriptions=False", "prompt", "descriptions", False),
        ("lora.targets=q_proj, v_proj", "lora", "targets", "q_proj, v_proj"),
        ("lora.targets=a=b", "lora", "targets", "a=b"),
        ("decode.end_bias=-0.5", "decode", "end_bias", -0.5),
        ("loss.contrastive=none", "loss", "contrastive", "none"),
    ],
)
def test_settings_by_hand(assignment: str, section: str, name: str, value: Any) -> None:
    config = Config().with_settings([assignment])
    found = getattr(getattr(config, section), name)
    assert found == value and type(found) is type(value)
    others = {(s, k.name) for s, k in KNOBS} - {(section, name)}
    assert all(getattr(getattr(config, s), n) == getattr(getattr(Config(), s), n) for s, n in others)


def test_later_settings_win_and_the_config_they_start_from_stays() -> None:
    start = Config(train=TrainConfig(steps=5))
    changed = start.with_settings(["train.seed=1", "train.seed=2"])
    assert (changed.train.seed, changed.train.steps) == (2, 5)
    assert start.train.seed == 0
    assert start.with_settings([]) == start


@given(configs())
def test_every_setting_can_be_given_on_the_command_line(config: Config) -> None:
    pairs = [(f"{section}.{spec.name}", getattr(getattr(config, section), spec.name)) for section, spec in KNOBS]
    pairs = [(name, value) for name, value in pairs if not isinstance(value, str) or value == value.strip()]
    again = Config().with_settings(f"{name}={value}" for name, value in pairs)
    for name, value in pairs:
        section, _, knob = name.partition(".")
        assert getattr(getattr(again, section), knob) == value


SET_ERRORS = [
    ("train.steps", "--set takes section.name=value, got 'train.steps'"),
    ("steps=3", "--set takes section.name=value, got 'steps=3'"),
    ("trian.steps=3", "--set: unknown section 'trian'; there are model, prompt, lora, loss, train, decode, calibrate"),
    ("lora.ranks=3", f"--set: unknown setting lora.ranks; [lora] has {NAMES['lora']}"),
    ("train.steps=many", "train.steps must be a whole number, got 'many'"),
    ("train.steps=1.5", "train.steps must be a whole number, got '1.5'"),
    ("train.learning_rate=fast", "train.learning_rate must be a number, got 'fast'"),
    ("train.learning_rate=nan", "train.learning_rate must be a finite number, got nan"),
    ("decode.end_bias=-inf", "decode.end_bias must be a finite number, got -inf"),
    ("decode.nested=yes", "decode.nested must be true or false, got 'yes'"),
    ("decode.edges=chars", "decode.edges must be one of word, token, got 'chars'"),
    ("train.batch_tokens=0", "train.batch_tokens must be at least 1, got 0"),
    ("train.negatives=-2", "train.negatives must be at least -1, got -2"),
    ("lora.dropout=0.95", "lora.dropout must be at most 0.9, got 0.95"),
    ("loss.temperature=0", "loss.temperature must be at least 0.0001, got 0.0"),
]


@pytest.mark.parametrize(("assignment", "message"), SET_ERRORS)
def test_what_the_command_line_may_not_say(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().with_settings([assignment])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": {}}, "config: unknown section [base]; there are model, prompt, lora, loss, train, decode, calibrate"),
        ({"train": 3}, "config: [train] must be a table of settings, got 3"),
        ({"prompt": {"ordre": 1}}, f"config: unknown setting prompt.ordre; [prompt] has {NAMES['prompt']}"),
        ({"train": {"steps": 2.0}}, "train.steps must be a whole number, got 2.0"),
        ({"train": {"steps": True}}, "train.steps must be a whole number, got True"),
        ({"train": {"steps": "3"}}, "train.steps must be a whole number, got '3'"),
        ({"train": {"warmup": True}}, "train.warmup must be a number, got True"),
        ({"train": {"warmup": "0.1"}}, "train.warmup must be a number, got '0.1'"),
        ({"train": {"warmup": 2}}, "train.warmup must be at most 1.0, got 2.0"),
        ({"decode": {"nested": 1}}, "decode.nested must be true or false, got 1"),
        ({"decode": {"nested": "true"}}, "decode.nested must be true or false, got 'true'"),
        ({"prompt": {"order": 1}}, "prompt.order must be a string, got 1"),
        ({"decode": {"end_bias": float("inf")}}, "decode.end_bias must be a finite number, got inf"),
    ],
)  # fmt: skip
def test_what_a_config_may_not_hold(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(values)
    assert str(caught.value) == message


def test_sections_check_what_code_gives_them() -> None:
    assert TrainConfig(learning_rate=1).learning_rate == 1.0
    assert type(TrainConfig(learning_rate=1).learning_rate) is float
    with pytest.raises(ConfigError, match=r"^lora\.rank must be at least 1, got 0$"):
        LoraConfig(rank=0)
    with pytest.raises(ConfigError, match=r"^lora\.rank must be a whole number, got '8'$"):
        LoraConfig(rank="8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"[train\n", "Expected"), (b"\xff\xfe", "utf-8"), (b"[train]\nsteps = 1\nsteps = 2\n", "overwrite")],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(path)
    assert str(caught.value).startswith(f"{path}: a config must be a readable TOML file in UTF-8: ")
    assert reason in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a config must be a readable TOML file in UTF-8: .*No such file"):
        Config.from_toml(tmp_path / "none.toml")


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[tarin]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(path)
    sections = "model, prompt, lora, loss, train, decode, calibrate"
    assert str(caught.value) == f"{path}: unknown section [tarin]; there are {sections}"
