"""The pack as ComfyUI loads it. Nothing is imported before the host asks for the nodes."""

from __future__ import annotations

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """Hand the pack's extension to the host."""
    # A relative import at module level would break test collection, where this file is imported without its package.
    from .nodes.extension import SlotIDExtension

    return SlotIDExtension()
