"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import SlotIDError


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place; nothing is left when it fails.

    Raises:
        SlotIDError: the folder or the file cannot be written (a full disk, say).
    """
    try:
        handle, temporary = tempfile.mkstemp(suffix=path.suffix, prefix=".slotid-", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    try:
        write(Path(temporary))
        # mkstemp makes files private to the user; an output gets the rights of any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _unwritable(path: Path, error: OSError) -> SlotIDError:
    return SlotIDError(f"{path.name} cannot be written: {error.strerror}", "a writable folder", "Choose another place.")
