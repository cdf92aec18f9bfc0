"""What all labs share: the claims that marks may name, and how they run."""

from __future__ import annotations

import signal
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from hypothesis import settings

#: How long one example takes says more about what else the machine does than about the code.
settings.register_profile("labs", deadline=None)
settings.load_profile("labs")

CLAIMS = {row["id"] for row in yaml.safe_load((Path(__file__).parent / "data/claims.yaml").read_text("utf-8"))}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a mark that names no claim: a typing error would hide that a claim has no lab."""
    for item in items:
        for mark in item.iter_markers("claim"):
            unknown = set(mark.args) - CLAIMS
            if unknown or not mark.args:
                raise pytest.UsageError(f"{item.nodeid}: unknown claim {sorted(unknown)} in its mark")


def pytest_configure() -> None:
    """Let SIGINT interrupt, here and in what the labs start: a shell that runs them in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def numpy() -> ModuleType:
    """numpy, which is optional: labs of what needs it are skipped without it."""
    found: ModuleType = pytest.importorskip("numpy", reason="numpy is absent: pip install -e '.[fast]'")
    return found
