"""ComfyUI's side of the pack: thin nodes over `slotid_core`."""
