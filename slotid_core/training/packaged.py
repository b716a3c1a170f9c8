"""Files of the demo world by the name "demo", so that configs work wherever the package lies."""

from __future__ import annotations

from pathlib import Path

from ..errors import SlotIDError


def packaged(file: str, kind: str) -> Path:
    """The path itself, or the packaged file of that kind for "demo".

    Args:
        kind: "diffusion_model" or "vae".

    Raises:
        SlotIDError: no such file.
    """
    from ..demo.files import demo_files

    path = getattr(demo_files(), kind) if file == "demo" else Path(file)
    if not path.is_file():
        raise SlotIDError(f"no {kind.replace('_', ' ')} {file!r}", "a safetensors file, or 'demo'", "check the config.")
    return path
