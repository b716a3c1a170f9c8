"""The pair store: who is paired with whom, resuming, and that chance depends on nothing but (seed, step, row)."""

import json

import pytest
import torch

from slotid_core.checkpoint import write
from slotid_core.errors import SlotIDError
from slotid_core.training.data import EMPTY, Clips, Entry, Order, PairStore, StoreWriter
from slotid_core.training.flow import draw_rows, flow_time

from .training_files import TEXT_TOKENS, TEXT_WIDTH, embed, entries, random_part, write_store


def test_what_was_written_is_read(tmp_path):
    folder = write_store(tmp_path / "store")
    store = PairStore(folder)
    assert (len(store.references), len(store.targets)) == (12, 6)
    expected = random_part("target", 6, 1)
    assert torch.equal(store.targets.take("latents", [4, 0]), expected["latents"][[4, 0]])
    assert store.targets.entries[4] == Entry("p4", "target 0", 5, "tests")
    text = store.text([0, 2, 1])
    assert text.shape == (3, TEXT_TOKENS, TEXT_WIDTH)
    torch.testing.assert_close(text[0, :1], embed(EMPTY).half())
    assert not text[0, 1:].any() and text[1].any(-1).all() and not text[2, 2:].any()


def test_a_take_is_never_paired_with_itself_nor_with_another_person(tmp_path):
    writer = StoreWriter(tmp_path, {}, TEXT_TOKENS)
    writer.number_texts(["aa", "bbb"], embed)
    # Real clips serve as reference and as target alike: two takes of a, one of b, three of c.
    takes = [("a", "1"), ("a", "2"), ("b", "1"), ("c", "1"), ("c", "2"), ("c", "3")]
    clips = [Entry(person, take, 5, "tests") for person, take in takes]
    for role in ("reference", "target"):
        writer.add(role, clips, random_part(role, len(clips)))
    store = PairStore(tmp_path)
    pairs = [(store.targets.entries[t], store.references.entries[r]) for t in store.usable for r in store.partners[t]]
    assert len(pairs) == 2 + 6
    assert all(target.person == reference.person and target.take != reference.take for target, reference in pairs)
    assert store.alone == ["b"] and len(store.usable) == 5


def test_an_interrupted_filling_goes_on(tmp_path):
    def fill(stop_after=None):
        writer = StoreWriter(tmp_path, {"size": 64}, TEXT_TOKENS)
        numbers = writer.number_texts(["aa", "bbb"], embed)
        assert numbers == {EMPTY: 0, "aa": 1, "bbb": 2}
        added = []
        for person in range(4):
            clips = [entry for entry in entries("target", 1, 2, person) if (entry.person, entry.take) not in done]
            if clips and person != stop_after:
                writer.add("target", clips, random_part("target", len(clips), person))
                added += clips
            elif person == stop_after:
                break
        return added

    done = set()
    assert len(fill(stop_after=2)) == 4
    (tmp_path / ".slotid-left-over.safetensors").write_bytes(b"a part that was being written when the power went")
    done = StoreWriter(tmp_path, {"size": 64}, TEXT_TOKENS).done("target")
    assert done == {(f"p{p}", f"target {t}") for p in range(2) for t in range(2)}
    assert [entry.person for entry in fill()] == ["p2", "p2", "p3", "p3"]
    assert len(Clips(tmp_path, "target")) == 8
    assert len(list(tmp_path.glob("text_*"))) == 1


def test_new_prompts_join_the_table(tmp_path):
    writer = StoreWriter(tmp_path, {}, TEXT_TOKENS)
    assert writer.number_texts(["aa"], embed) == {EMPTY: 0, "aa": 1}
    again = StoreWriter(tmp_path, {}, TEXT_TOKENS)
    assert again.number_texts(["cccc", "aa", "cccc"], embed) == {EMPTY: 0, "cccc": 2, "aa": 1}


def test_clips_found_useless_are_not_tried_again(tmp_path):
    writer = StoreWriter(tmp_path, {}, TEXT_TOKENS)
    writer.add("reference", [], {}, left_out=[("p9", "t")])
    assert StoreWriter(tmp_path, {}, TEXT_TOKENS).done("reference") == {("p9", "t")}


def test_a_store_made_otherwise_is_refused(tmp_path):
    StoreWriter(tmp_path, {"size": 64, "vae": "a"}, TEXT_TOKENS)
    with pytest.raises(SlotIDError, match="vae = 'a'"):
        StoreWriter(tmp_path, {"size": 64, "vae": "b"}, TEXT_TOKENS)


@pytest.mark.parametrize("damage", ["no store", "no clips", "version", "json", "count", "shape", "text", "entry"])
def test_damaged_stores_are_told(tmp_path, damage):
    folder = tmp_path / "store"
    if damage != "no store":
        write_store(folder)
    part = folder / "target_00001.safetensors"
    clips = {"clips": json.dumps([vars(entry) for entry in entries("target", 2, 1, 9)]), "left_out": "[]"}
    tensors = random_part("target", 2)
    if damage == "no clips":
        (folder / "target_00000.safetensors").unlink()
    elif damage == "version":
        (folder / "store.json").write_text(json.dumps({"format": "slot-id-pairs", "version": 9, "text_tokens": 3}))
    elif damage == "json":
        (folder / "store.json").write_text("{")
    elif damage == "count":
        write(part, {name: tensor[:1] for name, tensor in tensors.items()}, clips)
    elif damage == "shape":
        write(part, {**tensors, "latents": tensors["latents"][..., :2]}, clips)
    elif damage == "text":
        write(part, {**tensors, "text": torch.tensor([0, 3])}, clips)
    elif damage == "entry":
        write(part, tensors, {**clips, "clips": '[{"person": "x"}, {}]'})
    with pytest.raises(SlotIDError) as error:
        PairStore(folder)
    assert "slotid train cache" in error.value.expected + error.value.remedy


def test_an_epoch_has_each_clip_once_and_the_seed_decides_the_order():
    order = Order(7, seed=0)
    epochs = [[order[epoch * 7 + place] for place in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [Order(7, seed=0)[i] for i in (20, 3)] == [epochs[2][6], epochs[0][3]]
    assert [Order(7, seed=1)[i] for i in range(7)] != epochs[0]


def test_a_rows_chances_do_not_depend_on_the_rows_beside_it():
    together = draw_rows(0, 5, range(8), (16, 2, 4, 4), 3.0)
    for part in (range(0, 4), range(4, 8), range(6, 7)):
        for whole, drawn in zip(together, draw_rows(0, 5, part, (16, 2, 4, 4), 3.0), strict=True):
            assert torch.equal(whole[part.start : part.stop], drawn)
    for other in (draw_rows(0, 6, range(8), (16, 2, 4, 4), 3.0), draw_rows(1, 5, range(8), (16, 2, 4, 4), 3.0)):
        assert not any(torch.equal(one, two) for one, two in zip(together, other, strict=True))
    noise, time, chances = together
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert ((time > 0) & (time < 1)).all() and ((chances >= 0) & (chances < 1)).all()


def test_flow_times_are_shifted_towards_noise():
    normal = torch.tensor([-1.0, 0.0, 1.0])
    torch.testing.assert_close(flow_time(normal, 1.0), normal.sigmoid())
    assert flow_time(normal, 3.0)[1] == pytest.approx(0.75)
