from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidings.cli.shop import CASES, THANKS
from tidings.brokers.memory import MemoryBroker


@pytest.fixture
def broker() -> Iterator[str]:
    with MemoryBroker({"events": 3}) as running:
        yield running.bootstrap


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a campaign with its cases; nothing answers at the web port."""
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TIDINGS_WEB_PORT", "1")
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "thanks.yaml").write_text(THANKS)
    (shop / "thanks.cases.yaml").write_text(CASES)
    return shop
