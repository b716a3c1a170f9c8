"""Identities combined: slots matched, weighed by what they found, provenance told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from slotid_core import checkpoint, cli
from slotid_core.config import Backbone
from slotid_core.errors import SlotIDError
from slotid_core.identity import Identity
from slotid_core.identity_card import identity_card
from slotid_core.merging import blend_identities, match_slots, merge_identities
from slotid_core.slots import weighed

SLOTS, WIDTH = 6, 32


def identity(seed=0, tokens=None, source="a.mp4", routing=True, frames=9, poses=(), consent=""):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.zeros(SLOTS, 4, 4)
    maps.flatten(1)[torch.arange(SLOTS), torch.arange(SLOTS)] = 1.0
    return Identity(
        tokens=torch.randn(2 * SLOTS, WIDTH, generator=generator) if tokens is None else tokens,
        thumbnails=torch.full((2, 64, 64, 3), seed, dtype=torch.uint8),
        coverage={"frames": frames, "detected": frames, "detector": "dlib", "poses": [list(p) for p in poses]},
        model_name="model.safetensors",
        model_hash="ab" * 32,
        backbone=Backbone("wan2.1", width=64, depth=2),
        source=source,
        source_hash=f"{seed:064d}",
        frames_used=tuple(i / 16 for i in range(frames)),
        consent=consent,
        routing=maps if routing else None,
    )


def shuffled(one: Identity, order, noise=0.0, **changes) -> Identity:
    """The same person read with the slots in another order, and a little differently."""
    order = torch.tensor(order)
    generator = torch.Generator().manual_seed(99)
    tokens = torch.cat([one.tokens[:SLOTS][order], one.tokens[SLOTS:][order]])
    tokens = tokens + noise * torch.randn(tokens.shape, generator=generator)
    routing = None if one.routing is None else one.routing[order]
    return replace(one, tokens=tokens, routing=routing, **changes)


ORDER = [3, 1, 5, 0, 2, 4]


@pytest.mark.parametrize("routing", [True, False])
def test_slots_are_matched_whatever_their_order(routing):
    one = identity(routing=routing)
    theirs = match_slots(one, shuffled(one, ORDER, noise=0.3))
    assert [ORDER[slot] for slot in theirs] == list(range(SLOTS))


def test_routing_decides_between_tokens_that_are_alike():
    tokens = torch.ones(2 * SLOTS, WIDTH) + 1e-6 * torch.randn(2 * SLOTS, WIDTH)
    one = identity(tokens=tokens)
    other = replace(one, tokens=torch.randn(2 * SLOTS, WIDTH) * 1e-6 + 1, routing=one.routing[torch.tensor(ORDER)])
    # The tokens' own cosines are noise of either sign; six places that fit exactly outweigh them.
    gained = sum(ORDER[theirs] == mine for mine, theirs in enumerate(match_slots(one, other)))
    assert gained >= 4


def test_merging_an_identity_with_itself_changes_nothing():
    one = identity()
    merged = merge_identities([one, shuffled(one, ORDER)])
    assert torch.allclose(merged.tokens, one.tokens, atol=1e-5)
    assert torch.allclose(merged.routing, one.routing, atol=1e-6)


def test_each_slot_is_the_mean_by_what_the_clips_hold_of_it():
    found = torch.tensor([[9.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 9.0, 1.0, 1.0, 0.0, 1.0]])
    one = replace(identity(), evidence=found[0])
    other = replace(shuffled(one, range(SLOTS), noise=0.4), evidence=found[1], source="b.mp4")
    merged = merge_identities([one, other])
    share = (found[0] / found.sum(0)).repeat(2)[:, None]
    assert torch.allclose(merged.tokens, share * one.tokens + (1 - share) * other.tokens, atol=1e-5)
    assert torch.allclose(merged.evidence, found.sum(0)), "as much as both held"
    told = [part["weight"] for part in merged.coverage["parts"]]
    assert told == [round(float(share.mean()), 4), round(float(1 - share.mean()), 4)]


def test_it_is_weighed_as_in_training():
    one = replace(identity(), evidence=torch.rand(SLOTS) + 1)
    other = replace(shuffled(one, range(SLOTS), noise=0.4), evidence=torch.rand(SLOTS) + 1)
    trained = weighed(torch.stack([one.tokens, other.tokens]), torch.stack([one.evidence, other.evidence]).log())
    assert torch.allclose(merge_identities([one, other]).tokens, trained, atol=1e-5)


def test_slots_that_say_different_things_are_counted():
    one = identity()
    tokens = one.tokens.clone()
    tokens[[2, SLOTS + 2]] = -tokens[[2, SLOTS + 2]]
    merged = merge_identities([one, replace(one, tokens=tokens, source="b.mp4")])
    assert merged.tokens.shape == one.tokens.shape
    assert "6 slots matched, 1 where the clips say different things" in merged.report()


def test_weights_of_clips_count_beside_the_evidence():
    one = replace(identity(), evidence=torch.full((SLOTS,), 2.0))
    other = replace(shuffled(one, range(SLOTS), noise=0.4), evidence=torch.full((SLOTS,), 1.0))
    merged = merge_identities([one, other], weights=[1, 2])
    assert torch.allclose(merged.tokens, (one.tokens + other.tokens) / 2, atol=1e-5)
    only = merge_identities([one, other], weights=[1, 0])
    assert torch.allclose(only.tokens, one.tokens, atol=1e-6), "a clip without weight has no say"
    last = merge_identities([one, other], weights=[0, 3])
    assert torch.allclose(last.tokens, other.tokens, atol=1e-6)


def test_one_that_does_not_tell_what_it_found_counts_as_much_as_the_others():
    """A blend keeps no evidence; beside a clip's, which may be thousands, it must not vanish."""
    clip = replace(identity(), evidence=torch.full((SLOTS,), 5000.0))
    blend = shuffled(identity(), range(SLOTS), noise=0.4)
    merged = merge_identities([clip, blend])
    assert torch.allclose(merged.tokens, (clip.tokens + blend.tokens) / 2, atol=1e-5)
    assert merged.evidence is None


def test_three_clips_merge_in_one_go():
    three = [replace(identity(seed), evidence=torch.full((SLOTS,), 1.0 + seed)) for seed in range(3)]
    merged = merge_identities(three)
    expected = sum((1 + seed) * three[seed].tokens for seed in range(3)) / 6
    assert torch.allclose(merged.tokens, expected, atol=1e-5)
    assert torch.allclose(merge_identities([merged, three[0]]).evidence, torch.full((SLOTS,), 7.0))


def test_slots_of_one_number_find_each_other_when_one_of_them_saw_nothing():
    one = identity()
    tokens = one.tokens.clone()
    tokens[[0, 1]] = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(5))
    routing = torch.full_like(one.routing, 1 / 16)
    assert match_slots(one, replace(one, tokens=tokens, routing=routing)) == list(range(SLOTS))


def test_a_photo_takes_no_part_in_the_dynamics():
    clip = identity()
    photo = shuffled(clip, range(SLOTS), noise=0.3, frames_used=(0.0,))
    merged = merge_identities([clip, photo])
    assert torch.allclose(merged.tokens[SLOTS:], clip.tokens[SLOTS:], atol=1e-5)
    assert not torch.allclose(merged.tokens[:SLOTS], clip.tokens[:SLOTS], atol=1e-2)


def test_order_does_not_matter():
    one, other = identity(poses=[(0, 0), (30, 0)]), shuffled(identity(), ORDER, noise=0.3)
    forward, backward = merge_identities([one, other]), merge_identities([other, one])
    assert torch.allclose(forward.tokens[[*ORDER, *(SLOTS + slot for slot in ORDER)]], backward.tokens, atol=1e-5)


def test_a_merged_identity_tells_of_its_clips_and_keeps_in_a_file(tmp_path):
    merged = merge_identities([identity(0, source="left.mp4", consent="Ann, 2026"), identity(1, source="right.mp4")])
    merged.save(tmp_path / "merged.safetensors")
    back = Identity.load(tmp_path / "merged.safetensors")
    assert torch.equal(back.tokens, merged.tokens) and torch.equal(back.routing, merged.routing)
    assert back.coverage == merged.coverage
    report = back.report()
    assert "Merged from 2 clips of one person:" in report and "- 50% left.mp4" in report
    assert "left.mp4: Ann, 2026; right.mp4: no note" in report
    assert back.thumbnails[:, 0, 0, 0].tolist() == [0, 1, 0, 1], "each clip is seen"


# --- two people -------------------------------------------------------------------------------------------------


def angle(a, b) -> float:
    return float(torch.arccos(torch.nn.functional.cosine_similarity(a, b, dim=0)))


def test_a_blend_goes_from_one_to_the_other():
    one, other = identity(0, source="a.mp4"), shuffled(identity(1), ORDER, source="b.mp4")
    assert torch.equal(blend_identities(one, other, share=0).tokens, one.tokens)
    assert torch.equal(blend_identities(one, other, share=1).tokens, other.tokens)
    tokens = blend_identities(one, other, share=0.3).tokens
    pairs = match_slots(one, other)
    for slot in range(SLOTS):
        a, b, mid = one.tokens[slot], other.tokens[pairs[slot]], tokens[slot]
        assert angle(a, mid) == pytest.approx(0.3 * angle(a, b), abs=1e-3)
        assert float(mid.norm()) == pytest.approx(float(0.7 * a.norm() + 0.3 * b.norm()), rel=1e-4)
    report = blend_identities(one, other, share=0.3).report()
    assert "A blend of two people:" in report and "- 70% a.mp4" in report and "- 30% b.mp4" in report


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: merge_identities([a]),
        lambda a, b: merge_identities([a, b], weights=[1]),
        lambda a, b: merge_identities([a, b], weights=[0, 0]),
        lambda a, b: merge_identities([a, b], weights=[1, float("nan")]),
        lambda a, b: merge_identities([a, b], weights=[-1, 2]),
        lambda a, b: blend_identities(a, b, share=1.2),
        lambda a, b: blend_identities(a, b, share=float("nan")),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(SlotIDError):
        call(identity(0), identity(1))


@pytest.mark.parametrize("combine", [lambda a, b: merge_identities([a, b]), blend_identities])
def test_identities_of_two_models_name_both(combine):
    other = replace(identity(1), model_name="other.safetensors", model_hash="cd" * 32)
    with pytest.raises(SlotIDError) as caught:
        combine(identity(0), other)
    assert "model.safetensors" in caught.value.found and "other.safetensors" in caught.value.found


# --- the file ---------------------------------------------------------------------------------------------------


def test_files_without_routing_and_evidence_still_load(tmp_path):
    identity(routing=False).save(tmp_path / "old.safetensors")
    back = Identity.load(tmp_path / "old.safetensors")
    assert back.routing is None and back.evidence is None
    known = replace(identity(), evidence=torch.rand(SLOTS))
    known.save(tmp_path / "new.safetensors")
    assert torch.equal(Identity.load(tmp_path / "new.safetensors").evidence, known.evidence)


@pytest.mark.parametrize(
    "coverage",
    [
        {"poses": "front"},
        {"poses": [[1]]},
        {"poses": [[1, "x"]]},
        {"poses": [[1, float("nan")]]},
        {"expressions": [1]},
        {"expressions": {"smile": "much"}},
        {"frames": "many"},
        {"parts": [{}]},
        {"parts": "two"},
        [1, 2],
    ],
)
def test_a_coverage_that_is_none_is_refused(tmp_path, coverage):
    path = tmp_path / "bad.safetensors"
    identity().save(path)
    header = checkpoint.read_header(path)
    tensors = {"tokens": identity().tokens, "thumbnails": identity().thumbnails}
    checkpoint.write(path, tensors, {**header.metadata, "coverage": json.dumps(coverage)})
    with pytest.raises(SlotIDError, match="damaged metadata"):
        Identity.load(path)


@pytest.mark.parametrize(("name", "words"), [("routing", "where 7 slots looked"), ("evidence", "what 7 slots found")])
def test_another_number_of_slots_is_refused(tmp_path, name, words):
    shape = {"routing": (SLOTS + 1, 4, 4), "evidence": (SLOTS + 1,)}[name]
    replace(identity(), **{name: torch.ones(shape)}).save(tmp_path / "bad.safetensors")
    with pytest.raises(SlotIDError, match=words):
        Identity.load(tmp_path / "bad.safetensors")


def test_the_card_shows_who_it_is(tmp_path, capsys):
    card = identity_card(identity(200, poses=[(0, 0), (30, 10)]))
    assert (card == 200).all(-1).sum() > 20_000, "the thumbnails"
    identity().save(tmp_path / "a.safetensors")
    assert cli.main(["inspect", str(tmp_path / "a.safetensors"), "--sheet", str(tmp_path / "card.png")]) == 0
    assert (tmp_path / "card.png").stat().st_size > 1000
    assert "12 tokens of width 32" in capsys.readouterr().out
