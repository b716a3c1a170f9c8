"""Who is generated in a study, and what each of the videos shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..demo.clips import reference_tracks, target_tracks
from ..demo.people import TEST, TRAIN, people, split_of
from ..demo.prompts import BACKGROUNDS, POSES, Prompt
from ..errors import SlotIDError
from .renders import words_of

FIRST_PERSON = TEST.start
PEOPLE = 100
VIDEOS = len(POSES)
# Three of a person's five videos smile: how a smile forms is half of how a person moves.
_EXPRESSIONS = ("smile", "neutral", "smile", "surprise", "smile")
REFERENCE_TAKE = 0
TARGET_TAKE = 100


@dataclass(frozen=True)
class Design:
    """`people` from seed `first` on, five videos each: one in each pose, three smiling, each background once.

    Over five people in a row each pose meets each expression of the pattern, and each background, equally often.
    """

    first: int = FIRST_PERSON
    people: int = PEOPLE

    def __post_init__(self) -> None:
        if self.people < 2:
            raise SlotIDError(f"{self.people} people", "two or more", "a wrong reference needs another person.")
        for seed in (self.first, self.first + self.people - 1):
            split_of(seed)

    @property
    def seeds(self) -> list[int]:
        return list(range(self.first, self.first + self.people))

    @property
    def held_out(self) -> bool:
        """Whether none of the people is from the training range."""
        return self.first not in TRAIN and self.first + self.people - 1 not in TRAIN

    def prompts(self, index: int) -> list[Prompt]:
        """The five prompts of the person at `index`."""
        backgrounds = tuple(BACKGROUNDS)
        return [
            Prompt(pose, _EXPRESSIONS[(number + index) % 5], backgrounds[(2 * number + index) % 5])
            for number, pose in enumerate(POSES)
        ]

    def rows(self) -> dict[str, np.ndarray]:
        """What is known of every video [people * 5], in order: columns by name.

        person: seed. number: 0 .. 4. pose, expression, background: place in the vocabulary. yaw: of the truth's video,
        mean in degrees. start_yaw: of the reference's first frame, in degrees. All parameters of the person.
        """
        seeds, prompts = self.seeds, [self.prompts(index) for index in range(self.people)]
        flat = [prompt for own in prompts for prompt in own]
        repeated = [seed for seed in seeds for _ in range(VIDEOS)]
        words = words_of(flat).numpy()
        yaw = []
        for number in range(VIDEOS):
            _, tracks = target_tracks(seeds, TARGET_TAKE + number, [own[number] for own in prompts])
            yaw.append(torch.rad2deg(tracks.yaw).mean(1))
        _, references = reference_tracks(seeds, REFERENCE_TAKE)
        start = torch.rad2deg(references.yaw[:, 0]).numpy()
        who = people(seeds)
        return {
            "person": np.array(repeated),
            "number": np.tile(np.arange(VIDEOS), self.people),
            "pose": words[:, 0],
            "expression": words[:, 1],
            "background": words[:, 2],
            "yaw": torch.stack(yaw, 1).flatten().numpy().astype(float),
            "start_yaw": np.repeat(start, VIDEOS).astype(float),
            **{name: np.repeat(value.numpy(), VIDEOS).astype(float) for name, value in who.values.items()},
        }
