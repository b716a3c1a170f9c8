"""The identity in the host's own Wan model: bit-identical latents when off, different ones when on."""

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
    folder = tmp_path_factory.mktemp("probe")
    dit = write_dit(folder / "dit.safetensors", width=256, depth=3, ffn=512, text=4096)
    saved_model(folder / "slotid.safetensors", CONFIG)
    script, out = Path(__file__).with_name("probe.py"), folder / "answers.json"
    command = [comfyui_python(), script, comfyui, PACK, dit, folder / "slotid.safetensors", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    "claim",
    [
        "deterministic",
        "repeats",
        "strength_0_is_the_model",
        "gone_after_a_run",
        "nothing_left_on_model",
        "nothing_kept_after_run",
        "range_without_a_step",
        "batched_uncond_same",
        "apart_uncond_same",
        "batch_2_strength_0",
        "batch_2_uncond_same",
        "second_at_strength_0",
        "callers_options_untouched",
    ],
)
def test_nothing_changes_where_the_identity_does_not_act(answers, claim):
    assert answers[claim] is True


@pytest.mark.parametrize(
    "claim",
    [
        "changes_when_on",
        "identities_differ",
        "strengths_differ",
        "cfg_1_changes",
        "odd_size_changes",
        "early_end_differs",
        "batched_cond_differs",
        "apart_cond_differs",
        "two_identities_differ_from_one",
    ],
)
def test_it_acts_where_it_should(answers, claim):
    assert answers[claim] is True


def test_every_row_of_a_batch_carries_the_identity(answers):
    assert answers["batch_2_every_row_differs"] == [True, True]


def test_both_ways_of_running_guidance_were_met(answers):
    """0 is the positive prompt; the host runs equal lengths together, the negative one first."""
    assert answers["batched_chunks"] == [[1, 0]]
    assert sorted(answers["apart_chunks"]) == [[0], [1]]


def test_the_positive_prompt_is_known_by_name_not_by_number(answers):
    assert answers["dual_guidance_same"] == ["middle", "negative"]


def test_a_range_begins_and_ends_on_its_steps(answers):
    assert answers["late_start"] == [True, True, False, False]
    assert answers["halves_make_a_whole"] is True


def test_a_shift_later_in_the_graph_moves_the_range(answers):
    assert answers["shift_in_either_order"] is True
    assert answers["shift_moves_the_range"] == [True, True, False, False]


def test_other_packs_blocks_still_run(answers):
    assert answers["calls_another_packs_block"] > 0
    assert answers["another_packs_block_counts"] is True
    assert answers["another_pack_after_us"] is True


def test_weights_are_managed_and_shared(answers):
    assert answers["adapter_is_managed"] is True
    assert answers["deepcopy_shares_weights"] is True
    assert answers["prepared_per_run"] == 1


@pytest.mark.parametrize("neighbour", ["easycache", "context_windows", "compiled"])
def test_lives_with_the_hosts_own_accelerators(answers, neighbour):
    """In either order of nodes, in every latent frame, and not on the negative half."""
    assert answers[f"{neighbour}_either_order"] is True
    assert answers[f"{neighbour}_every_frame_differs"] is True
    assert answers[f"{neighbour}_uncond_same"] is True


def test_windows_were_met(answers):
    """Seven latent frames in windows of four take more than one call a step."""
    assert answers["context_windows_calls"] >= 2 * answers["compiled_calls"]


@pytest.mark.parametrize("member", ["wan22_i2v", "wan22_5b"])
def test_other_members_of_the_family(answers, member):
    """Strength 0 is the model; on changes the positive half alone; after the run it is gone."""
    assert answers[member] == [True, True, True, True]


def test_reference_tokens_come_before_the_videos(answers):
    assert answers["reference_prefix"] == [15, 39]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("wrong_width", ["width 128 with 2 blocks", "width 256", "made for this one"]),
        ("not_wan", ["(Linear)", "Wan 2.1 or 2.2", "load the diffusion model"]),
        ("empty_range", ["0.6", "0.4", "strength to 0"]),
        ("other_models_identity", ["000000000000", "slotid.safetensors", "with this model"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(answers, case, words):
    for word in words:
        assert word in answers[case]
