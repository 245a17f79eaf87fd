"""The hub: which names it can have, and that whether it can be reached is known at once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cllmfs import network
from cllmfs.network import can_be_hub_id, hub_reachable, only_the_cache

VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "no_proxy", "NO_PROXY")


@pytest.fixture(autouse=True)
def _unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test asks anew, in an environment that says nothing."""
    monkeypatch.setattr(network, "_last", None)
    for name in (*VARIABLES, *(f"{kind}_proxy" for kind in ("http", "https", "all"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a host that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B", "a/b", "own.er/na-me_1.5", "o/" + "x" * 94])
def test_names_that_the_hub_can_have(name: str) -> None:
    assert can_be_hub_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "..", "../..", "./model", "/no/such/folder", "a/b/c", "a b/c", "a/b ", "a//b", "a/", "/b", "-a/b",
        ".a/b", "a/b.", "a/b-", "a--b/c", "a/b..c", "a/b.git", "hf:a/b", "a\\b", "C:/a", "~/model", "bäse/x", "a/b\n",
        "a\x00b", "o/" + "x" * 95, "x" * 100_000, "https://huggingface.co/a/b",
    ],
)  # fmt: skip
def test_names_that_the_hub_cannot_have(name: str) -> None:
    assert not can_be_hub_id(name)


def test_a_host_that_answers_is_reached(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server}")
    assert hub_reachable()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert hub_reachable(), "success is remembered"


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_a_switch_for_offline_is_obeyed_at_once(name: str, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server}")
    assert hub_reachable()
    monkeypatch.setenv(name, "1")
    assert not hub_reachable()
    monkeypatch.setenv(name, "0")
    assert hub_reachable()


def test_a_failure_is_remembered_for_a_minute(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert not hub_reachable()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server}")
    assert not hub_reachable(), "not every look-up may wait"
    monkeypatch.setattr(network, "_last", (time.monotonic() - 61, False))
    assert hub_reachable(), "networks come back"


@pytest.mark.parametrize("slow", ["getaddrinfo", "create_connection"])
def test_a_host_that_does_not_answer_costs_little(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_PATIENCE", 0.2)
    asked = threading.Event()

    def answer_late(*_: Any, **__: Any) -> None:
        asked.wait(5)
        raise TimeoutError

    monkeypatch.setattr(socket, slow, answer_late)
    began = time.monotonic()
    assert not hub_reachable()
    assert time.monotonic() - began < 2
    asked.set()


@pytest.mark.parametrize("address", ["http://127.0.0.1:{}", "127.0.0.1:{}"])
def test_a_proxy_is_asked_in_place_of_the_host(address: str, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("https_proxy", address.format(server))
    assert hub_reachable()


@pytest.mark.parametrize("endpoint", ["not a url", "http://", "http://x:99999", "http://[::1", "ftp://a", "\x00"])
def test_an_odd_endpoint_is_not_reached(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_PATIENCE", 0.5)
    monkeypatch.setattr(network.os, "environ", {"HF_ENDPOINT": endpoint})
    assert not hub_reachable()


def test_the_cache_alone_is_used_inside_the_region_only() -> None:
    constants: Any = pytest.importorskip("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    inside: list[bool] = []

    def look_up() -> None:
        with only_the_cache():
            inside.append(constants.HF_HUB_OFFLINE)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        look_up()
    assert inside == [True] and constants.HF_HUB_OFFLINE is before
