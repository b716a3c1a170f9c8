"""The nodes from a reference video to one person's faces."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..slotid_core.faces import Faces, prepare_faces
from ..slotid_core.sheets import contact_sheet, frames_sheet
from ..slotid_core.video import Clip, clip_from_frames, load_video
from . import folders, sockets
from .host import as_image, noted_warnings, progress_bar, stop_if_cancelled, video_window
from .sockets import declare

# A batch of images has no rate of its own; this one is Wan's.
IMAGE_FPS = 16
PEOPLE = {"largest face": "largest", "leftmost": "leftmost", "2nd from left": 1, "3rd from left": 2, "4th from left": 3}
PREVIEW_FRAMES, PREVIEW_COLUMNS = 8, 4


class LoadReferenceVideo(io.ComfyNode):
    """Slot-ID Load Reference Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDLoadReferenceVideo",
            display_name="Slot-ID Load Reference Video",
            category=sockets.CATEGORY,
            description="Reads a few seconds of a person. Best is a clip in which the head turns both ways and the "
            "face smiles and talks: what is seen here is what can be kept. A photo works, with less likeness.",
            search_aliases=["load video", "reference clip", "video to identity", "face video"],
            has_intermediate_output=True,
            inputs=[
                declare(
                    io.Combo.Input,
                    "file",
                    options=folders.reference_files(),
                    default=next(iter(folders.sample_clips()), None),
                    upload=io.UploadType.video,
                    tooltip="A video or photo in ComfyUI's input folder, or a packaged sample clip. Not used while a "
                    "video is connected.",
                ),
                declare(
                    io.Float.Input,
                    "start",
                    default=0.0,
                    min=0.0,
                    max=36000.0,
                    step=0.1,
                    tooltip="Where to begin, in seconds.",
                ),
                declare(
                    io.Float.Input,
                    "duration",
                    default=0.0,
                    min=0.0,
                    max=600.0,
                    step=0.1,
                    tooltip="How many seconds to use from start; 0 means as long as the frames reach.",
                ),
                declare(
                    io.Int.Input,
                    "frames",
                    default=33,
                    min=1,
                    max=161,
                    step=4,
                    tooltip="The most frames to take, 4 k + 1 of them. 33 at 16 per second are two seconds.",
                ),
                declare(
                    io.Float.Input,
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=60.0,
                    step=1.0,
                    advanced=True,
                    tooltip="Frames to take per second of the video. Lower it to cover a longer time with the same "
                    "number of frames; how fast the person moves is part of the identity, so 16 is best.",
                ),
                declare(
                    io.Video.Input,
                    "video",
                    optional=True,
                    tooltip="A video from another node, in place of the file.",
                ),
            ],
            outputs=[
                sockets.Clip.Output(
                    "clip",
                    display_name="clip",
                    tooltip="For Prepare Face: the frames with their times and their source.",
                ),
                io.Image.Output("images", display_name="frames", tooltip="The same frames as images."),
                io.Float.Output("rate", display_name="fps", tooltip="Frames per second of the frames."),
                io.String.Output("report", display_name="report", tooltip="What was read, and what could be better."),
            ],
        )

    @classmethod
    def execute(cls, file, start, duration, frames, fps, video=None) -> io.NodeOutput:
        part = (start, duration or None)
        source, start, duration = video_window(video, *part) if video else (folders.reference_path(file), *part)
        with noted_warnings() as notes:
            clip = load_video(source, frames=frames, fps=fps, start=start, duration=duration, progress=progress_bar())
        report = "\n".join([clip_report(clip), *notes])
        return io.NodeOutput(clip, clip.frames, float(clip.fps), report, ui=preview(clip_sheet(clip), report, cls))

    @classmethod
    def validate_inputs(cls, file=None) -> bool | str:
        return folders.told(folders.reference_path, file)

    @classmethod
    def fingerprint_inputs(cls, file, **others) -> str:
        return folders.stamp(folders.reference_path(file))


class PrepareFace(io.ComfyNode):
    """Slot-ID Prepare Face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDPrepareFace",
            display_name="Slot-ID Prepare Face",
            category=sockets.CATEGORY,
            description="Finds one person's face in the clip, follows it and crops it, and says how good a reference "
            "the clip is. The contact sheet shows every frame, kept or left out and why, and which poses and "
            "expressions they cover; look at it before the identity is used.",
            search_aliases=["face detection", "face crop", "track face", "reference doctor", "check reference"],
            has_intermediate_output=True,
            inputs=[
                io.MultiType.Input(
                    "clip",
                    types=[sockets.Clip, io.Image],
                    tooltip="The clip of Load Reference Video, or any batch of images in order of time.",
                ),
                declare(
                    io.Combo.Input,
                    "detector",
                    options=["dlib", "insightface", "landmarks", "whole_frame"],
                    default="dlib",
                    tooltip="dlib: free for any use, nothing to download once installed. insightface: finds smaller "
                    "and turned faces, but its models are for non-commercial use only. landmarks: the faces that a "
                    "Face Landmarker node found. whole_frame: the clip is already cropped to one face.",
                ),
                declare(
                    io.Combo.Input,
                    "person",
                    options=list(PEOPLE),
                    default="largest face",
                    tooltip="Which face to follow where there are several.",
                ),
                declare(
                    io.Float.Input,
                    "margin",
                    default=0.6,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Space around the face, as a part of its size: hair, ears and neck belong to a person. Not "
                    "used for whole_frame.",
                ),
                declare(
                    sockets.FaceLandmarks.Input,
                    "landmarks",
                    optional=True,
                    tooltip="Face landmarks of the same frames, from ComfyUI's MediaPipe Face Landmarker. For the "
                    "detector landmarks.",
                ),
                declare(
                    io.Int.Input,
                    "keep_frames",
                    default=0,
                    min=0,
                    max=161,
                    step=1,
                    optional=True,
                    advanced=True,
                    tooltip="The most frames to keep, 4 k + 1 of them: those that show most poses and expressions, in "
                    "runs of four. Load a longer part, say 161 frames, and keep 33. 0 keeps all that are good.",
                ),
            ],
            outputs=[
                sockets.Faces.Output(
                    "faces", display_name="faces", tooltip="For Encode Identity: crops, masks, coverage and source."
                ),
                io.Image.Output("crops", display_name="crops", tooltip="The face crops as images."),
                io.Mask.Output("mask", display_name="mask", tooltip="Where the face is in each crop."),
                io.Image.Output(
                    "contact_sheet",
                    display_name="contact sheet",
                    tooltip="Every frame with its crop, or why it was left out; below, the poses and expressions.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How well the clip covers the person, and what a video will have to guess.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip, detector, person, margin, landmarks=None, keep_frames=0) -> io.NodeOutput:
        with noted_warnings() as notes:
            faces = prepare_faces(
                as_clip(clip),
                detector=detector,
                person=PEOPLE[person],
                margin=margin,
                frames=keep_frames or None,
                landmarks=landmarks,
                model_folders=folders.insightface_folders(),
                progress=progress_bar(),
            )
        sheet = as_image(contact_sheet(faces))
        # Of many frames, drawing the sheet and writing it as a file take about a second each.
        stop_if_cancelled()
        report = "\n".join([faces.coverage.report(), *notes])
        return io.NodeOutput(faces, faces.crops, faces.masks, sheet, report, ui=preview(sheet, report, cls))


def as_clip(clip: Clip | torch.Tensor) -> Clip:
    """What a SLOTID_CLIP,IMAGE socket brings, as a clip."""
    return clip if isinstance(clip, Clip) else clip_from_frames(clip, IMAGE_FPS)


def as_faces(faces: Faces | torch.Tensor) -> Faces:
    """What a SLOTID_FACES,IMAGE socket brings, as faces: images are taken for crops."""
    if isinstance(faces, Faces):
        return faces
    return prepare_faces(as_clip(faces), detector="whole_frame", progress=progress_bar())


def clip_sheet(clip: Clip) -> torch.Tensor:
    """A few frames, evenly spaced, with their times."""
    shown = torch.linspace(0, len(clip.frames) - 1, min(PREVIEW_FRAMES, len(clip.frames))).round().long()
    captions = [f"{time:.2f} s" for time in clip.timestamps[shown].tolist()]
    return as_image(frames_sheet(clip.frames[shown], min(PREVIEW_COLUMNS, len(shown)), captions=captions))


def clip_report(clip: Clip) -> str:
    """What was read, in plain words."""
    count, height, width, _ = clip.frames.shape
    return (
        f"{clip.source}: {count} frame{'s' * (count != 1)} of {width} x {height}, {float(clip.timestamps[0]):.2f} s to "
        f"{float(clip.timestamps[-1]):.2f} s, {float(clip.fps):g} per second."
    )


def preview(picture: torch.Tensor, report: str, cls: type[io.ComfyNode]) -> dict:
    """A picture and a text shown on the node."""
    return {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (report,)}
