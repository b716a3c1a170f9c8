"""Where `slotid generate` takes its text from: words of the demo world, a file of embeddings, or a text encoder."""

from __future__ import annotations

import argparse
import html
import re
from pathlib import Path

import torch

from ..checkpoint import FLOATS, read_header, read_tensors
from ..demo.prompts import embed_empty, embed_prompt
from ..errors import SlotIDError, load_package

# Wan's text encoder sees this many tokens, and the model zeros after the text's own.
TEXT_TOKENS = 512


def embeddings(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Prompt and negative [L, text width] from whichever source the arguments name; the demo world's if they name none.

    Raises:
        SlotIDError: a source that cannot be read.
    """
    if args.prompt_embeds:
        return read_embeddings(args.prompt_embeds)
    if args.prompt is not None:
        return encode_text(args.prompt, args.negative, args.text_encoder)
    words = (args.prompt_pose or "front", args.prompt_expression or "smile", args.prompt_background or "blue")
    return embed_prompt(*words), embed_empty()


def read_embeddings(path: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A safetensors file with `prompt` [L, text width] and, for guidance, `negative`."""
    header = read_header(path)
    expected = {name: (FLOATS, (None, None)) for name in ("prompt", "negative") if name in header.tensors}
    tensors = read_tensors(path, {"prompt": (FLOATS, (None, None)), **expected}, header)
    return tensors["prompt"].float(), tensors["negative"].float() if "negative" in tensors else None


def encode_text(prompt: str, negative: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Both texts through a UMT5 text encoder in a local folder, as WanPipeline does it.

    Args:
        folder: a Wan model in diffusers' layout (with `text_encoder` and `tokenizer`), or both in one folder.

    Raises:
        SlotIDError: transformers missing, or no text encoder and tokenizer there.
    """
    transformers = load_package("transformers", "headless")
    parts = {name: folder / name if (folder / name).is_dir() else folder for name in ("text_encoder", "tokenizer")}
    try:
        encoder = transformers.UMT5EncoderModel.from_pretrained(
            parts["text_encoder"], local_files_only=True, use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(parts["tokenizer"], local_files_only=True)
    except (OSError, ValueError) as error:
        raise SlotIDError(
            f"{str(folder)!r} holds no readable text encoder ({str(error).splitlines()[0]:.120})",
            "a folder with a UMT5 encoder (safetensors) and its tokenizer, such as Wan 2.1's in diffusers' layout",
            "give that folder to --text-encoder, or embed the text elsewhere and use --prompt-embeds.",
        ) from error
    one, other = (_encode(tidy(text), encoder.eval(), tokenizer) for text in (prompt, negative))
    return one, other


@torch.no_grad()
def _encode(text: str, encoder: torch.nn.Module, tokenizer: object) -> torch.Tensor:
    tokens = tokenizer(
        text,
        padding="max_length",
        max_length=TEXT_TOKENS,
        truncation=True,
        add_special_tokens=True,
        return_tensors="pt",
    )
    states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state[0].float()
    return states * tokens.attention_mask[0, :, None]


def tidy(text: str) -> str:
    """Text as Wan cleans it: HTML entities resolved twice, runs of white space made one."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()
