"""Names of data sets and the catalog: forms, what they mean, and what the catalog says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cllmfs.datasets import hub as hub_datasets
from cllmfs.datasets.catalog import HubName, catalog, find, is_named, parse_hub_name
from cllmfs.errors import ConfigError
from cllmfs.formats.tagging import tag_problem


def test_a_name_has_parts() -> None:
    full = "hf:DFKI-SLT/few-nerd@refs/convert/parquet#inter?tags=fine_ner_tags"
    name = parse_hub_name(full)
    assert name == HubName("DFKI-SLT/few-nerd", "refs/convert/parquet", "inter", "fine_ner_tags")
    assert str(name) == full
    assert parse_hub_name("hf:a/b#c") == HubName("a/b", config="c")
    assert is_named(full) and is_named("catalog:wnut17") and not is_named("wnut17")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/b", r"is named hf:OWNER/NAME\[@REVISION\]\[#CONFIG\]\[\?tags=COLUMN\], got 'a/b'"),
        ("hf:", "is named hf:OWNER/NAME"),
        ("hf:a/b?columns=x", "is named hf:OWNER/NAME"),
        ("hf:wnut_17", "must be followed by a folder or by OWNER/NAME of the hub, got 'hf:wnut_17'"),
        ("hf:/no/such/folder", "must be followed by a folder or by OWNER/NAME"),
        ("catalog:wnut_17", r"the catalog has no 'wnut_17'; did you mean 'wnut17'\?"),
    ],
)
def test_names_of_another_form_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(text)


def test_the_catalog_is_well_formed() -> None:
    path = Path(hub_datasets.__file__).with_name("catalog.toml")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))  # TOML refuses a name that is given twice
    required = {"language", "domain", "types", "license"}
    optional = {"source", "restricted", "reason", "tag_names"}
    assert len(raw) >= 15 and list(raw) == sorted(raw)
    for key, values in raw.items():
        assert required <= values.keys() <= required | optional, key
    sources = [entry.source for entry in catalog().values() if entry.source]
    assert len(set(sources)) == len(sources)
    for entry in catalog().values():
        assert entry.types > 0 and entry.license and entry.language and entry.domain, entry.name
        assert entry.restricted == bool(entry.reason), f"{entry.name}: just what is restricted has a reason"
        if entry.source is None:
            assert entry.restricted, entry.name
        else:
            parsed, same = find(f"catalog:{entry.name}")
            assert same is entry and parsed.path.count("/") == 1 and parse_hub_name(entry.source) == parsed
            assert find(entry.source)[1] is entry, "an hf: name is the catalog's entry too"
        if "-nc" in entry.license or entry.license in ("other", "unknown", "not stated"):
            assert entry.restricted, entry.name
        if entry.tag_names:
            assert not any(tag_problem(tag) for tag in entry.tag_names), entry.name
            assert len({tag[2:] for tag in entry.tag_names} - {""}) == entry.types, entry.name
            assert len(set(entry.tag_names)) == len(entry.tag_names), entry.name


def test_another_configuration_has_the_license_of_the_whole() -> None:
    assert find("hf:unimelb-nlp/wikiann#de")[1] is catalog()["wikiann_en"]
    assert find("hf:dfki-slt/few-nerd#intra")[1] is catalog()["few_nerd_intra"]
    assert find("hf:somebody/something")[1] is None
