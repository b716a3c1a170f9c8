"""The pair store: latents of reference and target clips on disk, read through memory maps.

A folder of safetensors parts. `reference_00000.safetensors` and `target_00000.safetensors` hold what belongs to n clips
each, `text_00000.safetensors` the embeddings of prompts; what each clip is stands in the part's own header, so that a
part is there with all that is known of it, or not at all. `store.json` says how the store was made.

    latents    [n, C, F, h, w] float16, in the model's normalised space
    face       [n, F, h, w] float16 in 0 .. 1, targets: how much of each latent cell is face
    text       [n] int64, targets: the prompt's number in the text table
    saliency   [n, F, h, w] float16, references of recorded clips: how much each latent cell counts

The demo world's references carry more, for the baselines (`slotid_core/demo/store.py`).
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .. import checkpoint
from ..atomic import write_atomic
from ..errors import SlotIDError
from .flow import stream

FORMAT, VERSION = "slot-id-pairs", 1
EMPTY = ""  # the prompt of rows whose text is left out


@dataclass(frozen=True)
class Entry:
    """Where a clip comes from. Clips of one take are one recording: they are never paired with each other."""

    person: str
    take: str
    frames: int
    source: str


class Clips:
    """All clips of one role, in the order of the parts."""

    def __init__(self, folder: Path, role: str) -> None:
        self.role, self.entries, self.parts, self.starts = role, [], [], []
        for path in sorted(folder.glob(f"{role}_*.safetensors")):
            header = checkpoint.read_header(path)
            try:
                entries = [Entry(**entry) for entry in json.loads(header.metadata["clips"])]
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(path.name, "no readable list of clips") from error
            if any(shape[:1] != (len(entries),) for _, shape in header.tensors.values()):
                raise _damaged(path.name, "another number of clips than it names")
            if not entries:
                continue
            self.starts.append(len(self.entries))
            self.entries += entries
            # On a CPU this maps the file: nothing is read before it is asked for.
            self.parts.append(safetensors.torch.load_file(path))
            if self._shapes(-1) != self._shapes(0):
                raise _damaged(path.name, f"{self._shapes(-1)} where others hold {self._shapes(0)}")

    def __len__(self) -> int:
        return len(self.entries)

    def names(self) -> set[str]:
        return set(self.parts[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one clip's tensor."""
        return tuple(self.parts[0][name].shape[1:])

    def take(self, name: str, clips: Sequence[int]) -> Tensor:
        """One tensor of some clips, stacked."""
        places = [(part := bisect_right(self.starts, clip) - 1, clip - self.starts[part]) for clip in clips]
        return torch.stack([self.parts[part][name][row] for part, row in places])

    def _shapes(self, part: int) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape[1:]) for name, tensor in sorted(self.parts[part].items())}


class PairStore:
    """What a run trains on.

    Attributes:
        references, targets: all clips.
        partners: target -> the references it may be paired with, of the same person and another take.
        usable: targets that have a partner, in order.
        alone: people who have targets and no partner for any, because all their clips are of one take.
        prompts: texts, by number; 0 is the empty one.
        text_tokens: length to which embeddings are padded with zeros, as the backbone was trained.

    Raises:
        SlotIDError: no store there, a damaged part, or no clips in it.
    """

    def __init__(self, folder: Path) -> None:
        facts = _facts(folder)
        self.text_tokens = facts["text_tokens"]
        self.references, self.targets = Clips(folder, "reference"), Clips(folder, "target")
        if not len(self.targets):
            raise SlotIDError(f"no clips in {str(folder)!r}", "a filled store", "run slotid train cache CONFIG.")
        by_person: dict[str, list[int]] = defaultdict(list)
        for number, entry in enumerate(self.references.entries):
            by_person[entry.person].append(number)
        self.partners = [
            [r for r in by_person[entry.person] if self.references.entries[r].take != entry.take]
            for entry in self.targets.entries
        ]
        self.usable = [number for number, partners in enumerate(self.partners) if partners]
        paired = {self.targets.entries[number].person for number in self.usable}
        self.alone = sorted({entry.person for entry in self.targets.entries} - paired)
        self._texts = _Texts(folder)
        self.prompts = self._texts.prompts
        if int(self.targets.take("text", range(len(self.targets))).max()) >= len(self._texts):
            raise _damaged(folder.name, "targets with prompts that its text table lacks")

    def report(self) -> str:
        """A line about the pairs, people left out counted."""
        people = {self.targets.entries[number].person for number in self.usable}
        text = f"{len(self.usable)} targets of {len(people)} people can be paired"
        return text + (f", {len(self.alone)} people left out with one take only" if self.alone else "")

    def text(self, numbers: Iterable[int]) -> Tensor:
        """Embeddings [B, text_tokens, text width] of prompts; 0 is the empty one."""
        rows = [self._texts[number] for number in numbers]
        out = rows[0].new_zeros(len(rows), self.text_tokens, rows[0].shape[-1])
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        return out


class _Texts:
    def __init__(self, folder: Path) -> None:
        self.rows: list[Tensor] = []
        self.prompts: list[str] = []
        for path in sorted(folder.glob("text_*.safetensors")):
            self.prompts += json.loads(checkpoint.read_header(path).metadata["texts"])
            part = safetensors.torch.load_file(path)
            self.rows += part["tokens"].split(part["lengths"].tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor:
        return self.rows[number]


class Order:
    """An endless order of `count` things in which each epoch has each thing once; a function of the seed."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._places = -1, torch.empty(0)

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, self.count)
        if epoch != self._epoch:
            self._places = torch.randperm(self.count, generator=stream("epoch", self.seed, epoch))
            self._epoch = epoch
        return int(self._places[place])


def encoder_sha256(vae_file: Path) -> str:
    """What the latents of a VAE file (Wan's names or diffusers') depend on: all of it but the decoder.

    A store is known by this, so that it stays good when a decoder is trained further.

    Raises:
        SlotIDError: see `checkpoint.read_header`.
    """
    return checkpoint.tensors_sha256(vae_file, leave_out=("decoder.", "conv2.", "post_quant_conv."))


class StoreWriter:
    """Fills a store, part by part; what is there already is kept, so an interrupted filling goes on.

    Args:
        folder: made if it is not there.
        settings: how the clips are made. A store made otherwise is refused.
        text_tokens: see `PairStore`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], text_tokens: int) -> None:
        self.folder = folder
        facts = {"format": FORMAT, "version": VERSION, "text_tokens": text_tokens, "settings": dict(settings)}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "store.json"
        if path.exists():
            there = _facts(folder)
            changed = [key for key in facts["settings"] if there["settings"].get(key) != facts["settings"][key]]
            if changed:
                key = changed[0]
                raise SlotIDError(
                    f"the store {str(folder)!r} was made with {key} = {there['settings'].get(key)!r}",
                    f"{key} = {facts['settings'][key]!r}",
                    "name another folder in data.store, or delete that one.",
                )
        else:
            write_atomic(path, lambda temporary: temporary.write_text(json.dumps(facts, indent=1)))
        self.texts = [text for part in self._parts("text") for text in json.loads(part["texts"])]

    def done(self, role: str) -> set[tuple[str, str]]:
        """(person, take) of the clips of a role that are there, or were found to be no use."""
        parts = self._parts(role)
        clips = {(entry["person"], entry["take"]) for part in parts for entry in json.loads(part["clips"])}
        return clips | {tuple(pair) for part in parts for pair in json.loads(part["left_out"])}

    def add(
        self, role: str, entries: Sequence[Entry], tensors: Mapping[str, Tensor], left_out: Sequence[Sequence[str]] = ()
    ) -> None:
        """Write one part; `left_out` names clips (person, take) that need not be tried again."""
        metadata = {"clips": json.dumps([asdict(entry) for entry in entries]), "left_out": json.dumps(list(left_out))}
        self._write(role, tensors, metadata)

    def number_texts(self, texts: Sequence[str], embed: Callable[[str], Tensor]) -> dict[str, int]:
        """Numbers of prompts in the text table, with those that are new embedded ([L, text width]) and written."""
        wanted = [EMPTY, *dict.fromkeys(texts)]
        new = [text for text in dict.fromkeys(wanted) if text not in set(self.texts)]
        if new:
            rows = [embed(text).half() for text in new]
            tensors = {"tokens": torch.cat(rows), "lengths": torch.tensor([len(row) for row in rows])}
            self._write("text", tensors, {"texts": json.dumps(new)})
            self.texts += new
        return {text: self.texts.index(text) for text in wanted}

    def _write(self, kind: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
        number = len(list(self.folder.glob(f"{kind}_*.safetensors")))
        checkpoint.write(self.folder / f"{kind}_{number:05d}.safetensors", tensors, metadata)

    def _parts(self, kind: str) -> list[dict[str, str]]:
        return [checkpoint.read_header(path).metadata for path in sorted(self.folder.glob(f"{kind}_*.safetensors"))]


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / "store.json"
    if not path.is_file():
        raise SlotIDError(f"no store in {str(folder)!r}", "a folder with store.json", "run slotid train cache CONFIG.")
    try:
        facts = json.loads(path.read_text())
        known = (facts["format"], facts["version"]) == (FORMAT, VERSION) and facts["text_tokens"] > 0
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path.name, "no readable facts") from error
    if not known:
        raise _damaged(path.name, f"format {facts['format']!r}, version {facts['version']!r}")
    return facts


def _damaged(name: str, holds: str) -> SlotIDError:
    return SlotIDError(f"{name!r} holds {holds}", "a store as slotid train cache writes it", "make the store again.")
