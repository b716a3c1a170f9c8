"""Filling the pair store that a config names: from a manifest of clips, or from the demo world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import SlotIDError
from .config import setting
from .packaged import packaged


@dataclass(frozen=True)
class DemoSection:
    """Clips of the demo world.

    Args:
        people: how many of the training people; 0 for none.
        size: side of the frames in pixels.
        targets, references: takes of each kind for each person.
    """

    people: int = setting(0, 0, 1_000_000)
    size: int = setting(64, 16, 1024)
    targets: int = setting(1, 1)
    references: int = setting(1, 1)


@dataclass(frozen=True)
class DataSection:
    """The pair store, and where its clips come from.

    Args:
        store: folder.
        vae: the backbone's VAE, with the original Wan names; "demo" is the packaged one.
    """

    store: str
    demo: DemoSection
    vae: str = "demo"


def fill(data: DataSection) -> str:
    """Fill the store; a line about what it holds then."""
    from .data import PairStore

    if not data.demo.people:
        raise SlotIDError("no source in the config", "data.demo.people above 0", "say where the clips come from.")
    from ..demo.store import fill_demo_store

    demo, folder = data.demo, Path(data.store)
    vae = packaged(data.vae, "vae")
    fill_demo_store(folder, vae, demo.people, demo.size, demo.targets, demo.references)
    store = PairStore(folder)
    return f"{folder}: {len(store.references)} references, {len(store.targets)} targets"
