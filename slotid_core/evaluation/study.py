"""Running a study: sample the videos of every condition, judge them, write one file of results each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import file_sha256
from ..demo.clips import reference_clips, target_clips
from ..demo.store import load_vae
from ..demo.wan_vae import WanVAE
from ..sheets import save_image
from ..video import Progress
from .design import REFERENCE_TAKE, TARGET_TAKE, VIDEOS, Design
from .models import identity_tokens, load_trained, read_origin
from .networks import SIDE, EmbeddingNet
from .probe import EMBEDDING_FILE, PROBE_FILE, Probe, embed_frames, embed_videos, load_embedding, load_probe
from .renders import to_bytes
from .results import NONE, PACKAGED, ROUND_TRIP, TRUTH, Run, Settings, open_study, read_runs, strip_path, write_run
from .sampling import Guidance, decode_clips, encode_clips, noise_of, sample, text_of

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from ..model import SlotID

PEOPLE_AT_ONCE = 10
IMPOSTORS = 8
# For the contact sheets: this many people, one video each, frames spread over it.
SHOWN_PEOPLE = 6
SHOWN_FRAMES = 5
GALLERY_FRAMES = 9

# Videos [n, 17, H, W, 3] of the people at some places of the design, five each, in order.
Make = Callable[[range], Tensor]


@dataclass
class Bench:
    """All that a study's runs share: models, judges, what the people look like."""

    design: Design
    guidance: Guidance
    size: int
    vae: WanVAE
    transformer: WanTransformer3DModel
    probe: Probe
    embedding: EmbeddingNet
    folder: Path
    gallery: Tensor

    @classmethod
    def set_up(
        cls,
        folder: Path,
        design: Design,
        guidance: Guidance,
        *,
        transformer: Path,
        vae: Path,
        size: int,
        device: torch.device,
        progress: Progress | None = None,
    ) -> Bench:
        """Load models and judges, begin or check the folder, and embed each person's reference clip.

        Args:
            transformer, vae: files in Wan's layout.
            size: side in pixels of what the models make.

        Raises:
            SlotIDError: a file that cannot be used, or a folder of another study.
        """
        from ..pipelines.wan import load_wan_transformer

        files = {
            "video model": transformer, "vae": vae, "probe": PROBE_FILE, "embedding": EMBEDDING_FILE,
        }  # fmt: skip
        open_study(folder, Settings(design, guidance, size, {name: file_sha256(path) for name, path in files.items()}))
        bench = cls(
            design, guidance, size, load_vae(vae).to(device), load_wan_transformer(transformer, device=device),
            load_probe().to(device), load_embedding().to(device), folder, torch.empty(0),
        )  # fmt: skip
        bench.gallery = bench._galleries(progress)
        return bench

    def _seeds(self, places: range) -> list[int]:
        """Seeds of the people at some places; places beyond the end begin again."""
        return [self.design.first + place % self.design.people for place in places]

    def _galleries(self, progress: Progress | None) -> Tensor:
        """Unit vectors [people, 64] of the reference clips, spoiled frames left out."""
        rows = []
        for places in self._parts(progress):
            clips = reference_clips(self._seeds(places), REFERENCE_TAKE)
            for frames, spoiled in zip(clips.frames, clips.spoiled, strict=True):
                clean = (~spoiled).nonzero()[:, 0]
                shown = clean[torch.linspace(0, len(clean) - 1, GALLERY_FRAMES).round().long()]
                rows.append(nn.functional.normalize(embed_frames(self.embedding, frames[shown]).mean(0), dim=0))
        return torch.stack(rows)

    def _parts(self, progress: Progress | None) -> Iterator[range]:
        for start in range(0, self.design.people, PEOPLE_AT_ONCE):
            part = range(start, min(start + PEOPLE_AT_ONCE, self.design.people))
            yield part
            if progress is not None:
                progress(part.stop, self.design.people)

    def measure(self, job: Job, progress: Progress | None = None) -> Run:
        """Make and judge the videos of all people, write the results and a strip of frames, and return the run."""
        run, make = job.run, job.make()
        pieces, strip = [], []
        for places in self._parts(progress):
            videos = make(places)
            pieces.append(self._judge(videos, places))
            strip += [videos[i * VIDEOS + place % VIDEOS] for i, place in enumerate(places) if place < SHOWN_PEOPLE]
        run.columns.update({name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})
        write_run(self.folder, run)
        if run.seed in (None, 0):
            path = strip_path(self.folder, run.name)
            path.parent.mkdir(exist_ok=True)
            save_image(path, strip_of(torch.stack(strip)))
        return run

    def _judge(self, videos: Tensor, places: range) -> dict[str, np.ndarray]:
        frames = to_side(videos)
        reading = self.probe.read(frames)
        vectors = embed_videos(self.embedding, frames)
        own = torch.tensor([place for place in places for _ in range(VIDEOS)])
        others = (own[:, None] + torch.arange(1, min(IMPOSTORS, self.design.people - 1) + 1)) % self.design.people
        motion = (frames.float().diff(dim=1).abs() / 255).mean((1, 2, 3, 4))
        columns = {
            **reading.numbers, **reading.kinds, **reading.words, "yaw": reading.yaw, "motion": motion,
            "features": reading.features, "similarity": (vectors * self.gallery[own]).sum(-1),
            "impostors": (vectors[:, None] * self.gallery[others]).sum(-1),
        }  # fmt: skip
        return {name: value.numpy() for name, value in columns.items()}

    def truth(self, places: range) -> Tensor:
        """The renders of what each video is asked to show, in [0, 1]."""
        prompts = [self.design.prompts(place) for place in places]
        seeds = self._seeds(places)
        takes = [
            target_clips(seeds, TARGET_TAKE + n, prompts=[own[n] for own in prompts], size=self.size).frames
            for n in range(VIDEOS)
        ]
        return torch.stack(takes, 1).flatten(0, 1)

    def round_trip(self, places: range) -> Tensor:
        """The truth through the VAE."""
        return decode_clips(self.vae, encode_clips(self.vae, self.truth(places)))

    def sampled(
        self, places: range, model: SlotID | None = None, variant: str = "full", *, wrong: bool = False
    ) -> Tensor:
        """Videos of the video model, with the identities that the model reads from the references, or without.

        Args:
            variant: of the encoder, which says what it is given of a reference.
            wrong: give everybody the next person's.
        """
        tokens = None
        if model is not None:
            # The next person's clip; the last person gets the first one's.
            references = reference_clips(
                self._seeds(range(places.start + wrong, places.stop + wrong)), REFERENCE_TAKE, size=self.size
            )
            tokens = identity_tokens(model, variant, self.vae, references, REFERENCE_TAKE).repeat_interleave(VIDEOS, 0)
        prompts = [prompt for place in places for prompt in self.design.prompts(place)]
        keys = [(seed, number) for seed in self._seeds(places) for number in range(VIDEOS)]
        noise = noise_of(keys, (16, 5, self.size // 8, self.size // 8))
        made = sample(self.transformer, noise, text_of(prompts), self.guidance, model=model, tokens=tokens)
        return decode_clips(self.vae, made)


@dataclass(frozen=True)
class Job:
    """A run to come. `facts` are those of the run: with others on disk under the same name, it is to be made again."""

    run: Run
    make: Callable[[], Make]

    def done(self, folder: Path) -> bool:
        known = [run for run in read_runs(folder) if run.name == self.run.name]
        return bool(known) and known[0].facts == self.run.facts


def baselines(bench: Bench) -> list[Job]:
    """The runs that no training belongs to: the truth, the truth through the VAE, the video model alone."""
    makes: dict[str, Make] = {
        TRUTH: lambda places: to_bytes(bench.truth(places)),
        ROUND_TRIP: bench.round_trip,
        NONE: lambda places: bench.sampled(places),
    }
    return [Job(Run(name, name, False, None, None, {}), lambda make=make: make) for name, make in makes.items()]


def trained(
    bench: Bench, path: Path, *, wrong: bool, device: torch.device, packaged: bool = False, photo: str = ""
) -> Job:
    """One trained encoder, with the right references or with the next person's.

    Args:
        packaged: whether it is the model that ships, which stands apart from those trained alike for comparison.
        photo: one of `PHOTOS`, the frame that the packaged model is given in place of the clip.

    Raises:
        SlotIDError: a file that is no trained encoder.
    """
    origin = read_origin(path)
    name = PACKAGED if packaged else f"{origin.variant}.{origin.seed or 0}"
    name += ".wrong" if wrong else f".{photo}" if photo else ""
    variant = origin.variant if not packaged else f"{PACKAGED}, {photo}" if photo else PACKAGED
    facts = {"sha256": origin.sha256, "trained_on": origin.trained_on}

    def make() -> Make:
        model = load_trained(path)
        model.check_backbone(*sizes_of(bench.transformer))
        model.to(device)
        return lambda places: bench.sampled(places, model, photo or origin.variant, wrong=wrong)

    return Job(Run(name, variant, wrong, origin.seed, origin.steps, {}, facts), make)


def sizes_of(transformer: WanTransformer3DModel) -> tuple[int, int, int]:
    """Width, depth and latent channels."""
    config = transformer.config
    return config.num_attention_heads * config.attention_head_dim, config.num_layers, config.in_channels


def to_side(videos: Tensor) -> Tensor:
    """Videos [N, T, H, W, 3], in [0, 1] or uint8, as uint8 of the judges' size; larger ones are averaged down."""
    factor = videos.shape[2] // SIDE
    if factor > 1:
        small = videos.float().unflatten(3, (-1, factor)).unflatten(2, (-1, factor)).mean((3, 5))
        videos = small.round().to(torch.uint8) if videos.dtype == torch.uint8 else small
    return videos if videos.dtype == torch.uint8 else to_bytes(videos)


def strip_of(videos: Tensor) -> np.ndarray:
    """A picture [n * H, 5 * W, 3] uint8 of n videos below each other, five frames each."""
    shown = torch.linspace(0, videos.shape[1] - 1, SHOWN_FRAMES).round().long()
    frames = videos[:, shown]
    frames = frames if frames.dtype == torch.uint8 else to_bytes(frames)
    return frames.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1).numpy()
