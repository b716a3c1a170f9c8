"""A tiny backbone, a tiny pair store and the config of a run on them."""

from __future__ import annotations

from pathlib import Path

import torch

from slotid_core.training.data import EMPTY, Entry, StoreWriter
from slotid_core.training.tasks import load_experiment

from .wan_files import write_dit

TEXT_TOKENS, TEXT_WIDTH = 3, 32
CONFIG = """
task = "identity"
[data]
store = "{folder}/store"
[backbone]
file = "{folder}/dit.safetensors"
[model]
identity_width = 24
[model.encoder]
width = 32
depth = 1
heads = 2
slots = 4
crop_size = 32
[model.conditioning]
inner_width = 16
heads = 2
[optimiser]
rate = 0.01
warmup = 2
average = 0.9
[run]
steps = 8
batch = 4
save_every = 3
trained_on = "nothing (tests)"
license = "none"
"""


def entries(role: str, people: int, takes: int = 1, first: int = 0) -> list[Entry]:
    """`takes` clips of a role for each person, each a take of its own."""
    return [Entry(f"p{p}", f"{role} {t}", 5, "tests") for p in range(first, first + people) for t in range(takes)]


def random_part(role: str, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    frames = {"target": 2, "reference": 3}[role]
    part = {"latents": torch.randn(count, 16, frames, 4, 4, generator=generator).half()}
    if role == "target":
        part["face"] = torch.rand(count, 2, 4, 4, generator=generator).half()
        part["text"] = torch.arange(count) % 3
        return part
    photos = {name: torch.randn(count, 16, 1, 4, 4, generator=generator).half() for name in ("random", "frontal")}
    known = {name: torch.randn(count, 5, generator=generator) for name in ("parameters", "attributes")}
    return {**part, **photos, **known}


def embed(text: str) -> torch.Tensor:
    """One to three tokens."""
    generator = torch.Generator().manual_seed(len(text) + 1)
    return torch.randn(1 if text == EMPTY else min(len(text), TEXT_TOKENS), TEXT_WIDTH, generator=generator)


def write_store(folder: Path, people: int = 6) -> Path:
    writer = StoreWriter(folder, {"source": "tests"}, TEXT_TOKENS)
    writer.number_texts(["aa", "bbb"], embed)
    for role, takes in (("reference", 2), ("target", 1)):
        clips = entries(role, people, takes)
        writer.add(role, clips, random_part(role, len(clips), takes))
    return folder


def write_experiment(folder: Path) -> Path:
    """The config file of a run that has all it needs in `folder`."""
    path = folder / "tiny.toml"
    if path.exists():
        return path
    write_dit(folder / "dit.safetensors", text=TEXT_WIDTH)
    write_store(folder / "store")
    path.write_text(CONFIG.format(folder=folder.as_posix()))
    return path


def experiment(folder: Path, *changes: str):
    return load_experiment(write_experiment(folder), changes)
