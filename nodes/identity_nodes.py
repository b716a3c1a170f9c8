"""The nodes around an identity: load a Slot-ID model, read an identity, keep it, fetch it."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io, ui

from ..slotid_core.identity import Identity
from ..slotid_core.identity_card import identity_card
from ..slotid_core.routing_sheet import routing_sheet
from . import folders, sockets
from .host import as_image, noted_warnings
from .host_model import HostModel
from .sockets import declare
from .video_nodes import as_faces, preview


class LoadModel(io.ComfyNode):
    """Slot-ID Load Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDLoadModel",
            display_name="Slot-ID Load Model",
            category=sockets.CATEGORY,
            description="Loads a Slot-ID model: the reader of clips and the weights that carry an identity into a Wan "
            "model. Files go in models/slot_id.",
            search_aliases=["slotid", "identity model", "load slot-id"],
            inputs=[
                declare(
                    io.Combo.Input,
                    "file",
                    options=folders.model_files(),
                    tooltip="A .safetensors file in models/slot_id. It belongs to one diffusion model; Apply says so "
                    "if they do not fit.",
                )
            ],
            outputs=[
                sockets.Model.Output(
                    "slotid_model", display_name="slotid_model", tooltip="For Encode Identity and Apply."
                )
            ],
        )

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        return io.NodeOutput(HostModel(folders.model_path(file)))

    @classmethod
    def validate_inputs(cls, file=None) -> bool | str:
        return folders.told(folders.model_path, file)

    @classmethod
    def fingerprint_inputs(cls, file) -> str:
        return folders.stamp(folders.model_path(file))


class EncodeIdentity(io.ComfyNode):
    """Slot-ID Encode Identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDEncodeIdentity",
            display_name="Slot-ID Encode Identity",
            category=sockets.CATEGORY,
            description="Reads a person from face crops, once; the identity then serves any number of videos. The "
            "preview shows which part of the face each slot took its tokens from.",
            search_aliases=["identity", "read face", "embed face", "reference video"],
            has_intermediate_output=True,
            inputs=[
                io.MultiType.Input(
                    "faces",
                    types=[sockets.Faces, io.Image],
                    tooltip="The faces of Prepare Face, which also tell the identity where they come from; or any "
                    "batch of square face crops in order of time.",
                ),
                declare(
                    io.Vae.Input,
                    "vae",
                    tooltip="The video VAE that belongs to the diffusion model: wan_2.1_vae for Wan 2.1 and 2.2 14B.",
                ),
                declare(sockets.Model.Input, "slotid_model", tooltip="From Load Model; Apply must get the same one."),
                declare(
                    io.String.Input,
                    "consent",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="A note kept in the identity file: who this is, and what they agreed to.",
                ),
            ],
            outputs=[
                sockets.Identity.Output(
                    "identity", display_name="identity", tooltip="The person, for Apply and Save Identity."
                ),
                io.Image.Output("routing", display_name="routing", tooltip="What each slot looked at, over time."),
                sockets.Routing.Output(
                    "routing_plan",
                    display_name="routing plan",
                    tooltip="The plan itself, for Routing Preview.",
                ),
            ],
        )

    @classmethod
    def execute(cls, faces, vae, slotid_model, consent="") -> io.NodeOutput:
        with noted_warnings():
            prepared = as_faces(faces)
            identity, trace = slotid_model.encode(prepared, vae, consent)
        picture = as_image(routing_sheet(prepared, trace))
        return io.NodeOutput(
            identity.with_routing(trace), picture, (prepared, trace), ui=ui.PreviewImage(picture, cls=cls)
        )


class SaveIdentity(io.ComfyNode):
    """Slot-ID Save Identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDSaveIdentity",
            display_name="Slot-ID Save Identity",
            category=sockets.CATEGORY,
            description="Keeps an identity as a small file in models/slot_id/identities: tokens, thumbnails, what the "
            "clip showed, where it comes from and who agreed. It loads without the clip, the face detector or the VAE.",
            search_aliases=["save face", "export identity", "identity library", "keep person"],
            is_output_node=True,
            inputs=[
                declare(sockets.Identity.Input, "identity", tooltip="From Encode Identity."),
                declare(
                    io.String.Input,
                    "name",
                    default="identity",
                    tooltip="Name of the file, with at most one subfolder: anna, or actors/anna.",
                ),
                declare(
                    io.Boolean.Input,
                    "overwrite",
                    default=False,
                    tooltip="Off: a name in use gets a number (anna_02). On: the file of that name is replaced.",
                ),
                declare(
                    io.String.Input,
                    "consent",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="A note kept in the file: who this is, and what they agreed to. Empty keeps the note that "
                    "the identity came with.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, identity, name, overwrite, consent="") -> io.NodeOutput:
        if consent:
            identity = replace(identity, consent=consent)
        path = folders.new_identity_path(name, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        identity.save(path)
        saved = f"Saved {folders.shown(path)}"
        return io.NodeOutput(ui=preview(as_image(identity_card(identity, title=saved)), saved, cls))

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        return folders.told(folders.check_name, name)


class LoadIdentity(io.ComfyNode):
    """Slot-ID Load Identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return declare(
            io.Schema,
            node_id="SlotIDLoadIdentity",
            display_name="Slot-ID Load Identity",
            category=sockets.CATEGORY,
            description="Fetches an identity that Save Identity or the slotid command kept, and shows who it is.",
            search_aliases=["load face", "import identity", "identity library", "saved person"],
            has_intermediate_output=True,
            inputs=[
                declare(
                    io.Combo.Input,
                    "file",
                    options=folders.identity_files(),
                    tooltip="A file in models/slot_id/identities. Press R to see one that was just saved.",
                ),
                declare(
                    sockets.Model.Input,
                    "slotid_model",
                    optional=True,
                    tooltip="The Slot-ID model that is to use it. Connected, a file made for another one is refused "
                    "here and not only at Apply.",
                ),
            ],
            outputs=[
                sockets.Identity.Output("identity", display_name="identity", tooltip="The person, for Apply."),
                io.Image.Output(
                    "thumbnails", display_name="thumbnails", tooltip="A few frames of the clip that it was read from."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Where the identity comes from, and what its clip held."
                ),
            ],
        )

    @classmethod
    def execute(cls, file, slotid_model=None) -> io.NodeOutput:
        identity = Identity.load(folders.identity_path(file))
        if slotid_model is not None:
            identity.check_model(slotid_model.model)
        card, report = as_image(identity_card(identity, title=file)), identity.report()
        return io.NodeOutput(identity, identity.thumbnails / 255.0, report, ui=preview(card, report, cls))

    @classmethod
    def validate_inputs(cls, file=None) -> bool | str:
        return folders.told(folders.identity_path, file)

    @classmethod
    def fingerprint_inputs(cls, file, **others) -> str:
        return folders.stamp(folders.identity_path(file))
