import socket
from pathlib import Path

import pytest


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, no data folder and an empty cache; returns the cache's folder."""

    def refuse(*arguments: object, **keywords: object) -> None:
        raise socket.gaierror("the network is switched off")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("PASSBAND_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "passband"
