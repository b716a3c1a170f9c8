"""What the patch asks of the device, with stand-ins for the host; what it does is proven in tests/host."""

from types import ModuleType, SimpleNamespace

import pytest
import torch


@pytest.fixture
def wan_patch(pack_module):
    names = ("comfy", "comfy.ldm", "comfy.ldm.wan", "comfy.ldm.wan.model", "comfy.patcher_extension")
    host = {name.replace(".", "__"): ModuleType(name) for name in names}
    for model in ("WanModel", "VaceWanModel", "CameraWanModel"):
        setattr(host["comfy__ldm__wan__model"], model, object)
    host["comfy"].ldm = host["comfy__ldm"]
    host["comfy__ldm"].wan = host["comfy__ldm__wan"]
    host["comfy__ldm__wan"].model = host["comfy__ldm__wan__model"]
    host["comfy__patcher_extension"].CallbacksMP = host["comfy__patcher_extension"].WrappersMP = SimpleNamespace()
    return pack_module("nodes.wan_patch", **host)


class Schedule:
    """The part of a model patcher that says which sigma belongs to which part of the sampling."""

    def get_model_object(self, name):
        return SimpleNamespace(percent_to_sigma=lambda percent: torch.tensor(1.0 - percent))


class Device:
    """A sigma on a device: reading it would wait."""

    def __getitem__(self, index):
        raise AssertionError("the sigma was read")


def patch(wan_patch, start, end):
    person = wan_patch.Person("one.mp4", wan_patch.Influence(start=start, end=end), (0,))
    made = wan_patch.IdentityPatch(None, torch.zeros(2, 4), person)
    made.begin(Schedule())
    return made


def test_a_whole_run_never_waits_for_the_device(wan_patch):
    assert patch(wan_patch, 0.0, 1.0).acts(Device())


@pytest.mark.parametrize(("start", "end"), [(0.2, 1.0), (0.0, 0.6), (0.2, 0.6)])
def test_a_range_is_decided_by_the_sigma(wan_patch, start, end):
    made = patch(wan_patch, start, end)
    for percent in (0.0, 0.1, 0.2, 0.4, 0.6, 0.9):
        sigmas = torch.tensor([1.0 - percent])
        assert made.acts(sigmas) is (start <= percent < end), percent


def test_rows_without_the_identity_ask_nothing(wan_patch):
    made = patch(wan_patch, 0.2, 0.6)
    options = {"sigmas": Device(), "cond_or_uncond": [1], "uuids": ["a"]}
    passed = made(lambda *args: args[5], torch.zeros(1, 4, 1, 2, 2), None, None, transformer_options=options)
    assert passed is options
