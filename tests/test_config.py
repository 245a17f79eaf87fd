"""Settings: the way to TOML and back, presets, what the command line accepts, and each message to the user."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cllmfs.config import (
    FIXED,
    PRESETS,
    SECTIONS,
    CalibrateConfig,
    Config,
    LoraConfig,
    LossConfig,
    PromptConfig,
    RuntimeConfig,
    Setting,
    SpansConfig,
    TrainConfig,
    list_settings,
)
from cllmfs.errors import ConfigError

MAX_SETTINGS = 30
SETTINGS = list(list_settings())
NAMES = {section: ", ".join(kind.model_fields) for section, kind in SECTIONS.items()}
ALL_SECTIONS = "prompt, spans, lora, loss, train, calibrate, runtime"


def value_of(config: Config, setting: Setting) -> Any:
    return getattr(getattr(config, setting.section), setting.name)


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    """Every value that a setting may have."""
    if setting.choices:
        return st.sampled_from(setting.choices)
    if isinstance(setting.default, bool):
        return st.booleans()
    if isinstance(setting.default, int):
        assert setting.low is None or isinstance(setting.low, int)
        return st.integers(setting.low, setting.high and int(setting.high))
    if isinstance(setting.default, float):
        return st.floats(setting.low, setting.high, allow_nan=False, allow_infinity=False)
    return st.text(st.characters(exclude_categories=["Cs"]))


def configs() -> st.SearchStrategy[Config]:
    """Configs with any of the settings changed."""
    tables = {
        name: st.fixed_dictionaries({}, optional={one.name: values_of(one) for one in SETTINGS if one.section == name})
        for name in SECTIONS
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
    config = Config().with_settings(["train.steps=7", "lora.targets=q_proj,v_proj", "spans.nested=true"])
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert Config.from_toml(path) == Config.from_toml(str(path)) == config
    path.write_text("[train]\nlearning_rate = 1\n", encoding="utf-8")
    assert Config.from_toml(path) == Config(train=TrainConfig(learning_rate=1.0))
    path.write_text("", encoding="utf-8")
    assert Config.from_toml(path) == Config()


def test_toml_explains_each_section_and_each_setting() -> None:
    lines = Config().to_toml().splitlines()
    headings = [(above, line) for above, line in itertools.pairwise(lines) if line.startswith("[")]
    assert headings == [(f"# {kind.__doc__}", f"[{name}]") for name, kind in SECTIONS.items()]
    settings = [(above, line) for above, line in itertools.pairwise(lines) if line and line[0] not in "#["]
    for setting, (above, line) in zip(SETTINGS, settings, strict=True):
        assert line.startswith(f"{setting.name} = ")
        assert above.startswith(f"# {setting.help}")
    assert (
        'inside spans; auto does so where those of the shots nest (auto | true | false)\nnested = "auto"\n'
        in Config().to_toml()
    )
    assert '(auto | word | token)\nedges = "auto"\n' in Config().to_toml()


@pytest.mark.parametrize("setting", SETTINGS, ids=[f"{one.section}.{one.name}" for one in SETTINGS])
def test_every_setting_is_explained_and_in_its_range(setting: Setting) -> None:
    text = setting.help
    assert len(text.split()) >= 3 and "\n" not in text and text == text.strip() and not text.endswith(".")
    assert type(setting.default) in (bool, int, float, str)
    if setting.choices:
        assert setting.default in setting.choices
    assert setting.low is None or setting.low <= setting.default
    assert setting.high is None or setting.default <= setting.high
    assert value_of(Config(), setting) == setting.default


@pytest.mark.parametrize("setting", SETTINGS, ids=[f"{one.section}.{one.name}" for one in SETTINGS])
def test_listed_bounds_and_choices_are_those_that_are_checked(setting: Setting) -> None:
    outside = [low - 1 for low in (setting.low,) if low is not None]
    outside += [high + 1 for high in (setting.high,) if high is not None]
    outside += ["neither of them"] if setting.choices else []
    for value in outside:
        with pytest.raises(
            ConfigError, match=rf"^{setting.section}\.{setting.name} must be (at least|at most|one of) "
        ):
            Config.from_dict({setting.section: {setting.name: value}})


def test_there_are_few_settings() -> None:
    assert len(SETTINGS) <= MAX_SETTINGS
    assert len({(one.section, one.name) for one in SETTINGS}) == len(SETTINGS)


def test_sections_are_the_configs_fields() -> None:
    assert list(Config.model_fields) == list(SECTIONS)
    kinds = {
        "prompt": PromptConfig,
        "spans": SpansConfig,
        "lora": LoraConfig,
        "loss": LossConfig,
        "train": TrainConfig,
        "calibrate": CalibrateConfig,
        "runtime": RuntimeConfig,
    }
    assert kinds == SECTIONS


def test_settings_are_fixed_by_training_or_belong_to_the_runtime() -> None:
    assert (*FIXED, "runtime") == tuple(SECTIONS)
    assert [one.name for one in SETTINGS if not one.fixed] == list(RuntimeConfig.model_fields)
    assert {one.section for one in SETTINGS if one.fixed} == set(FIXED)


def test_with_runtime_changes_nothing_else() -> None:
    config = Config.preset("paper")
    runtime = RuntimeConfig(threshold=0.5, batch_tokens=16)
    changed = config.with_runtime(runtime)
    assert changed.runtime == runtime and config.runtime == RuntimeConfig()
    assert all(getattr(changed, name) == getattr(config, name) for name in FIXED)
    assert config.with_runtime(None) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_differ_from_the_defaults_in_fixed_settings_only(name: str) -> None:
    config = Config.preset(name)
    changed = {(one.section, one.name) for one in SETTINGS if value_of(config, one) != one.default}
    stated = {(section, key) for section, values in PRESETS[name].items() for key in values}
    assert changed == stated  # a preset that states a default would be misleading
    assert {section for section, _ in changed} <= set(FIXED)
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^unknown preset 'papers'; there are paper$"):
        Config.preset("papers")


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.steps = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        Config().train = TrainConfig()  # type: ignore[misc]


def test_configs_can_be_compared_and_hashed() -> None:
    assert hash(Config()) == hash(Config.from_dict({}))
    assert Config() != Config().with_settings(["train.steps=1"])


@pytest.mark.parametrize(
    ("assignment", "section", "name", "value"),
    [
        ("train.learning_rate=1e-3", "train", "learning_rate", 1e-3),
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        (" train.steps = 20 ", "train", "steps", 20),
        ("train.batch_tokens=2_048", "train", "batch_tokens", 2048),
        ("spans.nested=true", "spans", "nested", True),
        ("calibrate.votes=false", "calibrate", "votes", False),
        ("calibrate.votes=False", "calibrate", "votes", False),
        ("lora.keep=.5", "lora", "keep", 0.5),
        ("lora.keep=1.", "lora", "keep", 1.0),
        ("lora.targets=q_proj, v_proj", "lora", "targets", "q_proj, v_proj"),
        ("lora.targets=a=b", "lora", "targets", "a=b"),
        ("runtime.threshold=0.5", "runtime", "threshold", 0.5),
        ("loss.contrastive=none", "loss", "contrastive", "none"),
    ],
)
def test_single_settings(assignment: str, section: str, name: str, value: Any) -> None:
    config = Config().with_settings([assignment])
    found = getattr(getattr(config, section), name)
    assert found == value and type(found) is type(value)
    others = [one for one in SETTINGS if (one.section, one.name) != (section, name)]
    assert all(value_of(config, one) == one.default for one in others)


def test_later_settings_win_and_the_config_they_start_from_stays() -> None:
    start = Config(train=TrainConfig(steps=5))
    changed = start.with_settings(["train.seed=1", "train.seed=2"])
    assert (changed.train.seed, changed.train.steps) == (2, 5)
    assert start.train.seed == 0
    assert start.with_settings([]) == start


@given(configs())
def test_every_setting_can_be_given_on_the_command_line(config: Config) -> None:
    given = [(one, value_of(config, one)) for one in SETTINGS]
    given = [(one, value) for one, value in given if not isinstance(value, str) or value == value.strip()]
    texts = ((one, str(value).lower() if isinstance(value, bool) else value) for one, value in given)
    again = Config().with_settings(f"{one.section}.{one.name}={text}" for one, text in texts)
    for one, value in given:
        assert value_of(again, one) == value


SET_ERRORS = [
    ("train.steps", "--set takes section.name=value, got 'train.steps'"),
    ("steps=3", "--set takes section.name=value, got 'steps=3'"),
    ("trian.steps=3", f"--set: unknown section 'trian'; there are {ALL_SECTIONS}"),
    ("lora.ranks=3", f"--set: unknown setting lora.ranks; [lora] has {NAMES['lora']}"),
    ("train.steps=many", "train.steps must be a whole number, got 'many'"),
    ("train.steps=1.5", "train.steps must be a whole number, got 1.5"),
    ("train.learning_rate=fast", "train.learning_rate must be a number, got 'fast'"),
    ("train.learning_rate=nan", "train.learning_rate must be a finite number, got nan"),
    ("runtime.threshold=-inf", "runtime.threshold must be a finite number, got -inf"),
    ("spans.nested=yes", "spans.nested must be one of auto, true, false, got 'yes'"),
    ("train.steps=3\nx=1", "train.steps must be a whole number, got '3\\nx=1'"),
    ("train.seed=99999999999999999999", "train.seed must be at most 9223372036854775807, got 99999999999999999999"),
    ("spans.edges=chars", "spans.edges must be one of auto, word, token, got 'chars'"),
    ("train.batch_tokens=0", "train.batch_tokens must be at least 1, got 0"),
    ("train.replay=-2", "train.replay must be at least 0, got -2"),
    ("lora.keep=1.5", "lora.keep must be at most 1.0, got 1.5"),
    ("loss.temperature=0", "loss.temperature must be at least 0.0001, got 0"),
]


@pytest.mark.parametrize(("assignment", "message"), SET_ERRORS)
def test_what_the_command_line_refuses(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().with_settings([assignment])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": {}}, f"config: unknown section [base]; there are {ALL_SECTIONS}"),
        ({"train": 3}, "config: [train] must be a table of settings, got 3"),
        ({"prompt": {"ordre": 1}}, f"config: unknown setting prompt.ordre; [prompt] has {NAMES['prompt']}"),
        ({"train": {"steps": 2.0}}, "train.steps must be a whole number, got 2.0"),
        ({"train": {"steps": True}}, "train.steps must be a whole number, got True"),
        ({"train": {"steps": "3"}}, "train.steps must be a whole number, got '3'"),
        ({"train": {"swap_mentions": True}}, "train.swap_mentions must be a number, got True"),
        ({"train": {"swap_mentions": "0.1"}}, "train.swap_mentions must be a number, got '0.1'"),
        ({"train": {"swap_mentions": 2}}, "train.swap_mentions must be at most 1.0, got 2"),
        ({"spans": {"nested": 1}}, "spans.nested must be one of auto, true, false, got 1"),
        ({"spans": {"nested": "true"}}, "spans.nested must be one of auto, true, false, got 'true'"),
        ({"lora": {"targets": 1}}, "lora.targets must be a string, got 1"),
        ({"prompt": {"order": 1}}, "prompt.order must be one of sentence-first, type-first, got 1"),
        ({"runtime": {"threshold": float("inf")}}, "runtime.threshold must be a finite number, got inf"),
        ({"loss": {"temperature": 0.0}}, "loss.temperature must be at least 0.0001, got 0.0"),
    ],
)
def test_what_a_config_refuses(values: dict[str, Any], message: str) -> None:
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
    with pytest.raises(ConfigError, match=r"^unknown setting lora\.ranks; \[lora\] has rank, "):
        LoraConfig(ranks=8)  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [{"steps": 3}, {"steps": "many"}, LoraConfig(), None])
def test_a_config_takes_checked_sections_only(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(train=value)
    assert str(caught.value) == f"config: train must be a TrainConfig, got {value!r:.60}; Config.from_dict takes tables"


def test_a_config_takes_known_sections_only() -> None:
    with pytest.raises(ConfigError, match=f"^config: unknown section 'model'; there are {ALL_SECTIONS}$"):
        Config(model=LoraConfig())  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"[train\n", "Expected"), (b"\xff\xfe", "utf-8"), (b"[train]\nsteps = 1\nsteps = 2\n", "overwrite")],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(path)
    assert str(caught.value).startswith(f"{path}: a config must be a readable TOML file in UTF-8: ")
    assert reason in str(caught.value)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a config must be a readable TOML file in UTF-8: .*No such file"):
        Config.from_toml(tmp_path / "none.toml")


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[tarin]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(path)
    assert str(caught.value) == f"{path}: unknown section [tarin]; there are {ALL_SECTIONS}"
    path.write_text("[train]\nstep = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(path)
    assert str(caught.value) == f"{path}: unknown setting train.step; [train] has {NAMES['train']}"


def test_settings_that_have_moved_are_read_from_where_they_were(tmp_path: Path) -> None:
    old = ["decode.threshold=0.45", "decode.nested=true", "decode.edges=token", "model.weights=bf16"]
    new = ["runtime.threshold=0.45", "spans.nested=true", "spans.edges=token", "runtime.weights=bf16"]
    assert Config().with_settings(old) == Config().with_settings(new)
    tables = {"decode": {"threshold": 0.45, "nested": True, "edges": "token"}, "model": {"weights": "bf16"}}
    assert Config.from_dict(tables) == Config().with_settings(new)
    assert Config.from_dict({"runtime": {"batch_tokens": 7}, **tables}).runtime.batch_tokens == 7
    with pytest.raises(ConfigError, match="unknown section 'decode'"):
        Config().with_settings(["decode.open_at=0.1"])
    with pytest.raises(ConfigError, match=r"unknown section \[decode\]"):
        Config.from_dict({"decode": {"open_at": 0.1}})
