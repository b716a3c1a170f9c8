"""The pack as a package, without ComfyUI: a stand-in for each of the host's modules that a test needs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACK = Path(__file__).resolve().parents[2]
NAME = "slotid_pack_without_host"


@pytest.fixture
def pack_module(monkeypatch):
    """Import a module of the pack by its name within it, with the given stand-ins for the host's modules."""

    def load(name: str, **host: ModuleType) -> ModuleType:
        for module, stand_in in host.items():
            monkeypatch.setitem(sys.modules, module.replace("__", "."), stand_in)
        spec = importlib.util.spec_from_file_location(
            NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        root = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, NAME, root)
        spec.loader.exec_module(root)
        return importlib.import_module(f"{NAME}.{name}")

    yield load
    for module in [module for module in sys.modules if module.startswith(NAME)]:
        del sys.modules[module]
