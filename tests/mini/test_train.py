"""The settings of the bundled model's training."""

from __future__ import annotations

import tomllib

import pytest

from mini import train


def test_changed_settings_take_the_place_of_the_files() -> None:
    plain = tomllib.loads(train.CONFIG.read_text(encoding="utf-8"))
    assert train.read_settings(train.CONFIG) == plain
    changed = train.read_settings(train.CONFIG, ["job.steps=7", "loss.contrastive = 'none'"])
    assert (changed["job"].pop("steps"), changed["loss"].pop("contrastive")) == (7, "none")
    del plain["job"]["steps"], plain["loss"]["contrastive"]
    assert changed == plain


@pytest.mark.parametrize("change", ["job.step=7", "jobs.steps=7", "steps=7", "job.steps", "loss.contrastive=none"])
def test_a_change_that_changes_nothing_is_refused(change: str) -> None:
    with pytest.raises(SystemExit, match="(no such setting|a line of TOML).*" + change):
        train.read_settings(train.CONFIG, [change])
