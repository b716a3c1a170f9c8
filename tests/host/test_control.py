"""Masks, ranges, weights, context windows and the guider in the host's own Wan model."""

import json
import subprocess
from pathlib import Path

import pytest

from ..core.models import saved_model
from ..core.wan_files import write_dit
from .comfyui import PACK, comfyui_python
from .conftest import CONFIG


@pytest.fixture(scope="module")
def answers(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    dit = write_dit(folder / "dit.safetensors", width=256, depth=3, ffn=512, text=4096)
    saved_model(folder / "slotid.safetensors", CONFIG)
    script, out = Path(__file__).with_name("probe_control.py"), folder / "answers.json"
    command = [comfyui_python(), script, comfyui, PACK, dit, folder / "slotid.safetensors", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    "claim",
    [
        "outside_is_bit_identical",
        "inside_is_the_identity",
        "moving_mask",
        "ones_are_no_mask",
        "compiled_mask",
        "batch_of_two",
    ],
)
def test_a_mask_says_where(answers, claim):
    assert answers[claim] is True


@pytest.mark.parametrize("claim", ["identities_differ", "two_people", "two_people_swapped"])
def test_two_people_each_in_a_mask(answers, claim):
    assert answers[claim] is True


def test_every_window_and_every_chunk_reads_the_same_tokens(answers):
    """Keys and values are made once in each run, whatever the number of windows."""
    assert answers["windows"] >= 3
    assert answers["prepared"] == 2 and answers["same_tokens"] is True


@pytest.mark.parametrize(
    "claim", ["windows_differ", "mask_follows_windows", "mask_in_either_order", "mask_follows_a_loop"]
)
def test_a_moving_mask_follows_the_window(answers, claim):
    assert answers[claim] is True


@pytest.mark.parametrize("claim", ["columns_were_cut", "mask_follows_columns"])
def test_a_mask_follows_windows_over_the_width(answers, claim):
    """How a model that knows one head in a picture shows two of them."""
    assert answers[claim] is True


@pytest.mark.parametrize(
    "claim", ["area_was_met", "area_negative_untouched", "area_carries_the_identity", "area_under_a_mask"]
)
def test_a_prompt_for_a_part_of_the_picture(answers, claim):
    """The host copies such a prompt's area to the negative one, with the positive one's name on it."""
    assert answers[claim] is True


def test_blocks_and_weights(answers):
    assert answers["blocks_asked"] == [1]
    assert answers["weights_of_1_are_as_before"] is True
    assert answers["each_setting_differs"] == 5


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("why_strength", "strength is 0"),
        ("why_halves", "both 0"),
        ("why_mask", "the mask is empty"),
        ("why_blocks", "(0, 1, 2)"),
        ("why_untrained", "never trained"),
        ("why_not", "it acts: "),
        ("cut_video", "A part of the video of [3, 4, 2] latents"),
    ],
)
def test_it_is_never_silent(answers, case, words):
    assert words in answers[case]


def test_identity_guidance_of_1_is_cfg_bit_for_bit(answers):
    """With both prompts in one batch and apart; and like the stock sampler."""
    assert answers["at_1"] == [True, True] and answers["at_1_like_ksampler"] is True
    assert answers["at_1_rows"] == [2, 2, 2, 2]


def test_identity_guidance_of_0_is_the_model_without_it(answers):
    assert answers["at_0"] is True and answers["at_0_rows"] == [2, 2, 2, 2]


def test_identity_guidance_is_the_formula(answers):
    assert answers["at_2_is_the_formula"] is True and answers["at_2_differs"] is True


def test_no_answer_more_than_the_guidance_needs(answers):
    assert answers["at_2_rows"] == [3, 3, 3, 3] and answers["at_2_rows_apart"] == 3
    assert answers["cfg_1_rows"] == [[2] * 4, [1] * 4, [1] * 4]
    assert answers["range_rows"] == [2, 2, 3, 3], "outside of Apply's range the identity needs no answer of its own"
    assert answers["no_identity"] is True and answers["no_identity_rows"] == [2, 2, 2, 2]


def test_the_guider_lives_with_windows_and_other_packs(answers):
    assert answers["with_windows"] == 3 * answers["windows"]
    assert answers["beside_another_pack"] == [True, True]
