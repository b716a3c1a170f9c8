"""Filling the pair store that a config names: from recorded clips, or from the demo world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import SlotIDError
from .clips import ClipsSection, fill_clip_store
from .config import setting
from .data import PairStore
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
    """The pair store, and where its clips come from: `clips` or `demo`.

    Args:
        store: folder.
        vae: the backbone's VAE, with the original Wan names; "demo" is the packaged one.
    """

    store: str
    demo: DemoSection
    clips: ClipsSection
    vae: str = "demo"


def fill(data: DataSection) -> str:
    """Fill the store; a line about what it holds then.

    Raises:
        SlotIDError: no source, or two; what the source itself refuses.
    """
    folder, vae = Path(data.store), packaged(data.vae, "vae")
    if bool(data.demo.people) == bool(data.clips.manifest):
        raise SlotIDError(
            f"data.demo.people = {data.demo.people} and data.clips.manifest = {data.clips.manifest!r}",
            "one source of clips",
            "give the number of demo people, or a manifest.",
        )
    if data.demo.people:
        from ..demo.store import fill_demo_store

        demo = data.demo
        fill_demo_store(folder, vae, demo.people, demo.size, demo.targets, demo.references)
    else:
        fill_clip_store(folder, vae, data.clips, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    store = PairStore(folder)
    return f"{folder}: {len(store.references)} references, {len(store.targets)} targets; {store.report()}"
