"""The node that measures likeness."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..slotid_core.faces import Faces
from ..slotid_core.likeness import likeness_plot, make_meter, measure_likeness, sampled_frames
from . import folders, sockets
from .host import as_image, noted_warnings, progress_bar
from .sockets import declare
from .video_nodes import as_clip, preview

METER_NAMES = {
    "dlib (free for any use)": "dlib",
    "FaceSim-Arc (insightface, non-commercial)": "facesim_arc",
    "FaceSim-Cur (insightface, non-commercial)": "facesim_cur",
}
NO_FILE = "none"


class MeasureLikeness(io.ComfyNode):
    """Slot-ID Likeness."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDLikeness",
            display_name="Slot-ID Likeness",
            category=sockets.CATEGORY,
            description="Measures how much the person of a video is like the reference: to one reference frame, as the "
            "published scores do, and to the nearest of several, with how much the face moves beside it. The dlib "
            "meter is free for any use; insightface's model packs are licensed for non-commercial use only.",
            search_aliases=["face similarity", "facesim", "arcface", "compare faces", "id score", "face distance"],
            is_output_node=True,
            inputs=[
                declare(
                    io.Image.Input, "images", tooltip="The frames of the video to measure, as VAE Decode gives them."
                ),
                io.MultiType.Input(
                    "reference",
                    types=[sockets.Clip, sockets.Faces, io.Image],
                    tooltip="The person: the clip of Load Reference Video, the faces of Prepare Face, or any images.",
                ),
                declare(
                    io.Combo.Input,
                    "meter",
                    options=list(METER_NAMES),
                    default="dlib (free for any use)",
                    tooltip="Who measures. The two FaceSim follow the scripts of ConsisID and OpenS2V-Eval; their "
                    "model packs are for non-commercial use only. Figures of different meters cannot be compared.",
                ),
                declare(
                    io.Int.Input,
                    "samples",
                    default=16,
                    min=1,
                    max=1024,
                    step=1,
                    tooltip="Evenly spaced frames to look at, of the video and of the reference: ConsisID takes 16, "
                    "OpenS2V-Eval 32.",
                ),
                declare(
                    io.Combo.Input,
                    "curricularface",
                    options=[NO_FILE, *folders.likeness_files()],
                    default=NO_FILE,
                    optional=True,
                    advanced=True,
                    tooltip="For FaceSim-Cur: CurricularFace IR-101 as an .onnx file in models/slot_id/likeness.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "score",
                    display_name="score",
                    tooltip="Mean likeness to the first reference frame with a face, 0 to 1; 0 if no frame has a face.",
                ),
                io.Float.Output(
                    "nearest_score",
                    display_name="nearest",
                    tooltip="Mean likeness to whichever reference frame is nearest: fairer where expressions change.",
                ),
                io.Image.Output("curve", display_name="curve", tooltip="The likeness of each frame looked at."),
                io.String.Output("report", display_name="report", tooltip="All of it in words, with the licence."),
                io.String.Output("json", display_name="json", tooltip="All figures, for other programs."),
            ],
        )

    @classmethod
    def execute(cls, images, reference, meter, samples, curricularface=NO_FILE) -> io.NodeOutput:
        file = None if curricularface == NO_FILE else folders.likeness_path(curricularface)
        with noted_warnings():
            clip = reference.clip if isinstance(reference, Faces) else as_clip(reference)
        measured = measure_likeness(
            sampled_frames(images, samples),
            sampled_frames(clip.frames, samples),
            make_meter(METER_NAMES[meter], model_folders=folders.insightface_folders(), curricularface=file),
            progress=progress_bar(),
        )
        curve, report = as_image(likeness_plot(measured)), measured.report()
        figures = json.dumps(measured.to_dict())
        shown = preview(curve, report, cls)
        return io.NodeOutput(measured.score, measured.nearest_score, curve, report, figures, ui=shown)
