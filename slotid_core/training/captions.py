"""Captions to prompt embeddings, by Wan's text encoder in a local folder."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SlotIDError, load_package

# Wan's text encoder sees at most this many tokens, and the model gets zeros after the text's own.
TEXT_TOKENS = 512


def caption_embedder(folder: Path, device: torch.device) -> Callable[[str], Tensor]:
    """A function from a caption to [L, text width], L its own number of tokens, as WanPipeline embeds it.

    Args:
        folder: a Wan model in diffusers' layout (with `text_encoder` and `tokenizer`), or both in one folder.

    Raises:
        SlotIDError: transformers missing, or no text encoder and tokenizer there.
    """
    transformers = load_package("transformers", "headless")
    parts = {name: folder / name if (folder / name).is_dir() else folder for name in ("text_encoder", "tokenizer")}
    local = {"local_files_only": True}
    try:
        encoder = transformers.UMT5EncoderModel.from_pretrained(parts["text_encoder"], use_safetensors=True, **local)
        tokenizer = transformers.AutoTokenizer.from_pretrained(parts["tokenizer"], **local)
    except (OSError, ValueError) as error:
        raise SlotIDError(
            f"{str(folder)!r} holds no readable text encoder ({str(error).splitlines()[0]:.120})",
            "a folder with a UMT5 encoder (safetensors) and its tokenizer, such as Wan 2.1's in diffusers' layout",
            "give that folder in data.clips.text_encoder.",
        ) from error
    encoder = encoder.eval().to(device)

    @torch.no_grad()
    def embed(caption: str) -> Tensor:
        # As Wan cleans it: HTML entities resolved twice, runs of white space made one.
        text = re.sub(r"\s+", " ", html.unescape(html.unescape(caption))).strip()
        ids = tokenizer(text, max_length=TEXT_TOKENS, truncation=True, return_tensors="pt").input_ids.to(device)
        return encoder(ids).last_hidden_state[0].float().cpu()

    return embed
