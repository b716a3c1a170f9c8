"""Where the pack's files live: folders registered with the host, and names that users give."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import folder_paths

from ..slotid_core.demo.files import ASSETS, demo_files
from ..slotid_core.errors import SlotIDError

MODELS = "slot_id"
IDENTITIES = "slot_id_identities"
LIKENESS = "slot_id_likeness"

_SAMPLE = " [temp]"
_EXTENSION = ".safetensors"
_NAME = re.compile(r"[\w .()+-]+")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def register_folders() -> None:
    """Tell the host of `models/slot_id`, its two libraries, and the packaged demo files (for the stock loaders too)."""
    own = os.path.join(folder_paths.models_dir, MODELS)
    places = ((MODELS, own, _EXTENSION), (IDENTITIES, os.path.join(own, "identities"), _EXTENSION))
    for kind, folder, extension in (*places, (LIKENESS, os.path.join(own, "likeness"), ".onnx")):
        # A read-only installation still loads models from elsewhere.
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
        folder_paths.add_model_folder_path(kind, folder)
        # An entry made by extra_model_paths.yaml knows no extensions, which the host reads as "any file".
        folder_paths.folder_names_and_paths[kind] = (folder_paths.get_folder_paths(kind), {extension})
    for kind in ("diffusion_models", "vae", MODELS):
        folder_paths.add_model_folder_path(kind, str(ASSETS / kind))


def model_files() -> list[str]:
    """Names of the Slot-ID model files, the identities left out."""
    return [name for name in folder_paths.get_filename_list(MODELS) if Path(name).parts[0] != "identities"]


def identity_files() -> list[str]:
    return folder_paths.get_filename_list(IDENTITIES)


def likeness_files() -> list[str]:
    """Names of networks for the likeness meters."""
    return folder_paths.get_filename_list(LIKENESS)


def likeness_path(name: str) -> str:
    return _existing(LIKENESS, name, "models/slot_id/likeness")


def model_path(name: str) -> str:
    return _existing(MODELS, name, "models/slot_id")


def identity_path(name: str) -> str:
    return _existing(
        IDENTITIES, name, "models/slot_id/identities", "save one with Save Identity (the graph slotid_save_identity)"
    )


def _existing(kind: str, name: str, folder: str, remedy: str = "put the file there") -> str:
    path = None if _escapes(name) else folder_paths.get_full_path(kind, name)
    if path is None:
        raise SlotIDError(
            f"There is no file {name!r}",
            f"a file in {folder}",
            f"{remedy}, press R in ComfyUI to refresh the list, and choose it.",
        )
    return path


def reference_files() -> list[str]:
    """Videos and pictures in the host's input folder, then the packaged sample clips."""
    folder = Path(folder_paths.get_input_directory())
    files = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    return sorted(folder_paths.filter_files_content_types(files, ["video", "image"])) + sample_clips()


def sample_clips() -> list[str]:
    """Names of the packaged sample clips, put where the page can show them: in the folder that empties itself."""
    temporary = Path(folder_paths.get_temp_directory())
    for path in demo_files().clips:
        with contextlib.suppress(OSError):
            temporary.mkdir(parents=True, exist_ok=True)
            if not (temporary / path.name).exists():
                shutil.copyfile(path, temporary / path.name)
    return list(_samples())


def _samples() -> dict[str, str]:
    return {path.name + _SAMPLE: str(path) for path in demo_files().clips}


def reference_path(name: str) -> str:
    """Path of one of `reference_files`, or of a file just uploaded."""
    path = _samples().get(name)
    if path is None and "\0" not in name:
        bare, base = folder_paths.annotated_filepath(name)
        if not _escapes(bare):
            path = os.path.join(base or folder_paths.get_input_directory(), bare)
    if path is None or not os.path.isfile(path):
        raise SlotIDError(
            f"There is no reference video {name!r}",
            "a video in ComfyUI's input folder, or one of the sample clips",
            "upload it with the button on the node, or choose another.",
        )
    return path


def _escapes(name: str) -> bool:
    return "\0" in name or os.path.isabs(name) or ".." in re.split(r"[/\\]", name)


def insightface_folders() -> list[str]:
    """Where this host's users keep insightface's model packs."""
    registered = (
        folder_paths.get_folder_paths("insightface") if "insightface" in folder_paths.folder_names_and_paths else []
    )
    return [*registered, os.path.join(folder_paths.models_dir, "insightface")]


def new_identity_path(name: str, *, overwrite: bool) -> Path:
    """Where an identity of this name goes: the name itself, or at most one subfolder and the name.

    A name in use gives the next free number, unless `overwrite`.

    Raises:
        SlotIDError: the name is empty, too long, absolute, points outside, or has characters that some system refuses.
    """
    parts = name.removesuffix(_EXTENSION).split("/")
    if len(parts) > 2 or not all(map(_is_plain, parts)):
        raise SlotIDError(
            f"The name {name!r:.200} cannot be used for a file",
            "letters, digits, spaces and . _ - + ( ), with at most one subfolder before a single /, 80 characters each",
            "give a plain name, such as anna or actors/anna.",
        )
    root = Path(folder_paths.get_folder_paths(IDENTITIES)[0])
    first = root.joinpath(*parts[:-1], parts[-1] + _EXTENSION)
    path, number = first, 1
    while path.exists() and not overwrite:
        number += 1
        path = first.with_name(f"{parts[-1]}_{number:02d}{_EXTENSION}")
    return path


def _is_plain(part: str) -> bool:
    return (
        _NAME.fullmatch(part) is not None
        and part == part.strip()
        and not part.startswith(".")
        and not part.endswith(".")
        and len(part) <= 80
        and part.split(".")[0].lower() not in _RESERVED
    )


def check_name(name: str) -> None:
    """Hold a name for an identity against the rules of `new_identity_path`."""
    new_identity_path(name, overwrite=True)


def shown(path: Path) -> str:
    """A path as the user knows it, without the folders above the host's."""
    return os.path.relpath(path, os.path.dirname(folder_paths.models_dir))


def told(check: Callable[[str], object], name: str | None) -> bool | str:
    """A check's refusal as the host's validation wants it: True, or what is wrong.

    A name that arrives through a wire is not known before the run (None), and is checked there.
    """
    try:
        if name is not None:
            check(name)
    except SlotIDError as error:
        return str(error)
    return True


def stamp(path: str | os.PathLike) -> str:
    """What changes when a file does, without reading it."""
    stat = os.stat(path)
    return f"{stat.st_mtime_ns}:{stat.st_size}"
