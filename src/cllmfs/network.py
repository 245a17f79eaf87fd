"""Whether the Hugging Face hub can be asked for a name: the names that it can have, and whether it can be reached.

Without this, a library retries a look-up for a minute before it says that there is no network. This file knows names
and sockets; it downloads nothing and knows nothing of models or data.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

UNREACHABLE = "the network cannot be reached"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_LONGEST = 96  # characters of an id of the hub
_PATIENCE = 3.0  # seconds that one attempt may take
_ASKED_AGAIN = 60.0  # seconds after which an attempt that failed is repeated, since networks come back

_lock = threading.RLock()
_last: tuple[float, bool] | None = None  # the time and the outcome of the last attempt


def can_be_hub_id(name: str) -> bool:
    """Whether the hub can have a model or a data set of this name: NAME or OWNER/NAME, of at most 96 characters."""
    plain = len(name) <= _LONGEST and _ID.fullmatch(name) is not None
    return plain and not (".." in name or "--" in name or name.endswith(("-", ".", ".git")))


def hub_reachable() -> bool:
    """Whether the hub can be asked: it is not switched off by ``HF_HUB_OFFLINE``, and its host takes a connection.

    Only one short attempt is made. Success is remembered as long as the process lives, failure for a minute.
    """
    global _last
    if any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _OFFLINE):
        return False
    with _lock:
        if _last is None or not (_last[1] or time.monotonic() - _last[0] < _ASKED_AGAIN):
            answer = _connects(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
            _last = time.monotonic(), answer
        return _last[1]


def _connects(url: str) -> bool:
    """Whether the host of a URL, or the proxy through which it is asked, takes a connection."""
    outcome: list[bool] = []

    def attempt() -> None:
        with contextlib.suppress(OSError, ValueError):
            parts, proxies = urlsplit(url), getproxies()
            proxy = proxies.get(parts.scheme) or proxies.get("all")
            if proxy and not proxy_bypass(parts.hostname or ""):
                parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
            port = parts.port or (80 if parts.scheme == "http" else 443)
            with socket.create_connection((parts.hostname or "", port), timeout=_PATIENCE):
                outcome.append(True)

    # The name of the host is looked up without any time limit, so this is done in a thread that need not end.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(outcome)


@contextlib.contextmanager
def only_the_cache() -> Iterator[None]:
    """A region in which the libraries of the hub use what they downloaded before, and open no connection."""
    with _lock:  # the switches belong to the whole process: another thread must not restore them too early
        switches: list[tuple[Any, str]] = []
        for module, name in (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("datasets.config", "HF_HUB_OFFLINE")):
            if hasattr(sys.modules.get(module), name):
                switches.append((sys.modules[module], name))
        before = [getattr(module, name) for module, name in switches]
        for module, name in switches:
            setattr(module, name, True)
        try:
            yield
        finally:
            for (module, name), value in zip(switches, before, strict=True):
                setattr(module, name, value)
