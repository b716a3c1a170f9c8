"""`slotid generate`: an identity file and a prompt to a video."""

from __future__ import annotations

import argparse
import re
from contextlib import nullcontext
from pathlib import Path

from ..demo.prompts import VOCABULARY
from .common import (
    PICTURES,
    add_device_option,
    add_force_option,
    check_outputs,
    chosen_device,
    presentable,
    progress,
    size_of,
    untrained,
)

SUMMARY = "generate a video that carries an identity"
DESCRIPTION = """\
Generate a video of the person in an identity file, from a prompt, with a Wan text-to-video model.

The identity, the Slot-ID model and the video model belong together: the identity names the Slot-ID model that made it,
and that names its video model. With the same seed, steps, cfg and shift the noise and the steps are those of ComfyUI's
KSampler (euler, simple)."""
EXAMPLES = """\
examples:
  slotid generate --identity me.identity.safetensors -o me.mp4                 packaged demo models, a smile on blue
  slotid generate --identity me.identity.safetensors -o me.mp4 --prompt-pose "far left" --prompt-background green
  slotid generate --identity me.safetensors -o me.mp4 \\
      --model slotid-wan2.1-1.3b.safetensors --transformer wan2.1_t2v_1.3B_bf16.safetensors \\
      --vae wan_2.1_vae.safetensors --text-encoder Wan2.1-T2V-1.3B-Diffusers \\
      --prompt "A person smiles at the sea." --shift 3 --size 832x480

A prompt embedded elsewhere comes as a safetensors file with the tensors `prompt` [L, 4096] and `negative`."""

# size, frames, steps, cfg, shift
DEMO_SETTINGS = {"size": (64, 64), "frames": 17, "steps": 12, "cfg": 2.0, "shift": 3.0}
WAN_SETTINGS = {"size": (480, 832), "frames": 81, "steps": 30, "cfg": 5.0, "shift": 8.0}


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT to (height, width)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 832x480")
    return int(match[2]), int(match[1])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--identity", type=Path, metavar="FILE", help="the identity file; without it, a plain video")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the video (.mp4)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also write a sheet of the video's frames (.png)")
    add_force_option(parser)

    models = parser.add_argument_group("models (default: the packaged demo models)")
    models.add_argument("--model", type=Path, metavar="FILE", help="the Slot-ID model that made the identity")
    models.add_argument("--transformer", type=Path, metavar="FILE", help="the Wan diffusion model, as ComfyUI takes it")
    models.add_argument("--vae", type=Path, metavar="FILE", help="its VAE, as ComfyUI takes it")
    add_device_option(models)

    text = parser.add_argument_group("prompt (one of three ways)")
    text.add_argument("--prompt", metavar="TEXT", help="in words, through --text-encoder")
    text.add_argument("--negative", default="", metavar="TEXT", help="what to avoid, with --prompt")
    text.add_argument("--text-encoder", type=Path, metavar="FOLDER", help="UMT5 and its tokenizer, in a local folder")
    text.add_argument("--prompt-embeds", type=Path, metavar="FILE", help="embedded elsewhere (see below)")
    for kind, words in VOCABULARY.items():
        text.add_argument(
            f"--prompt-{kind}", choices=words, help=f"{kind} in the demo world: %(choices)s", metavar="WORD"
        )

    how = parser.add_argument_group("sampling (defaults: demo models / others)")
    how.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="X",
        help="of the identity; 0 leaves the model as it is (default: 1)",
    )
    how.add_argument(
        "--start", type=float, default=0.0, metavar="X", help="where in the sampling the identity begins, 0 to 1"
    )
    how.add_argument("--end", type=float, default=1.0, metavar="X", help="where it ends, 0 to 1")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    how.add_argument("--size", type=size, metavar="WxH", help="in pixels (64x64 / 832x480)")
    how.add_argument("--frames", type=int, metavar="N", help="4k + 1 frames (17 / 81)")
    how.add_argument("--steps", type=int, metavar="N", help="sampling steps (12 / 30)")
    how.add_argument(
        "--cfg", type=float, metavar="X", help="guidance by the prompt; 1 is none, and twice as fast (2 / 5)"
    )
    how.add_argument(
        "--identity-cfg",
        type=float,
        default=1.0,
        metavar="X",
        help="guidance by the identity: 1 is that of the prompt, 0 none; others take one more call a step (default: 1)",
    )
    how.add_argument("--shift", type=float, metavar="X", help="of the flow time (3 / 8)")
    how.add_argument("--fps", type=float, default=16.0, metavar="X", help="frames per second of the file (default: 16)")


def run(args: argparse.Namespace) -> None:
    _check_usage(args)
    check_outputs({args.output: (".mp4",)} | ({args.sheet: PICTURES} if args.sheet else {}), force=args.force)

    import torch

    from ..demo.files import demo_files
    from ..identity import Identity
    from ..model import SlotID
    from ..pipelines.diffusers_adapter import condition_transformer
    from ..pipelines.wan import generate, load_wan_transformer, load_wan_vae
    from ..sheets import frames_sheet, save_image
    from ..video import save_video
    from .prompts import embeddings

    device = chosen_device(args.device)
    slotid, identity = SlotID.load(args.model or demo_files().slot_id), None
    if args.identity:
        identity = Identity.load(args.identity)
        identity.check_model(slotid)
    settings = {**(DEMO_SETTINGS if args.transformer is None else WAN_SETTINGS), "seed": args.seed}
    settings |= {name: value for name in settings if (value := getattr(args, name)) is not None}
    if identity is not None:
        settings["identity_cfg"] = args.identity_cfg
    prompt, negative = embeddings(args)
    # A CPU computes slowly or not at all in half precision; on a GPU the 14B model fits only so.
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    transformer = load_wan_transformer(args.transformer or demo_files().diffusion_model, dtype=dtype, device=device)
    vae = load_wan_vae(args.vae or demo_files().vae, device=device)
    conditioned = nullcontext()
    if identity is not None:
        part = {"strength": args.strength, "start": args.start, "end": args.end, "shift": settings["shift"]}
        conditioned = condition_transformer(slotid, transformer, identity, **part)
    with conditioned, progress("Sampling") as report:
        frames = generate(transformer, vae, prompt, negative, **settings, progress=report)
    words = untrained(slotid.metadata) if args.transformer is None or identity is not None else ""
    save_video(args.output, presentable(frames, words), args.fps)
    print(f"Wrote {args.output}: {len(frames)} frames, {size_of(args.output)}.")
    if args.sheet:
        save_image(args.sheet, frames_sheet(frames, title=words or None))
        print(f"Wrote {args.sheet}.")


def _check_usage(args: argparse.Namespace) -> None:
    words = [args.prompt_pose, args.prompt_expression, args.prompt_background]
    ways = [args.prompt is not None, args.prompt_embeds is not None, any(words)]
    if sum(ways) > 1:
        args.parser.error("give one of --prompt, --prompt-embeds, and the --prompt-... words of the demo world")
    if args.prompt is not None and args.text_encoder is None:
        args.parser.error("--prompt needs --text-encoder, a local folder")
    if args.transformer is not None and not any(ways):
        args.parser.error("a prompt is needed with --transformer: --prompt with --text-encoder, or --prompt-embeds")
