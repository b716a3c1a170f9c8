"""Names that users give to files, and the folders the pack tells the host of."""

import os
from types import SimpleNamespace

import pytest

from slotid_core.demo.files import demo_files


@pytest.fixture
def host(tmp_path):
    """The part of ComfyUI's folder_paths that the pack uses."""
    paths = SimpleNamespace(models_dir=str(tmp_path / "models"), folder_names_and_paths={})
    paths.get_input_directory = lambda: str(tmp_path / "input")
    paths.get_temp_directory = lambda: str(tmp_path / "temp")
    paths.get_folder_paths = lambda kind: list(paths.folder_names_and_paths[kind][0])
    paths.annotated_filepath = lambda name: (
        (name.removesuffix(" [temp]"), str(tmp_path / "temp")) if name.endswith(" [temp]") else (name, None)
    )
    paths.filter_files_content_types = lambda files, kinds: [f for f in files if f.endswith((".mp4", ".png"))]

    def add_model_folder_path(kind, folder):
        paths.folder_names_and_paths.setdefault(kind, ([], set()))[0].append(folder)

    def get_filename_list(kind):
        roots, extensions = paths.folder_names_and_paths[kind]
        found = [os.path.relpath(os.path.join(d, f), r) for r in roots for d, _, fs in os.walk(r) for f in fs]
        return sorted(f for f in found if os.path.splitext(f)[1] in extensions)

    def get_full_path(kind, name):
        found = [os.path.join(root, name) for root in paths.get_folder_paths(kind)]
        return next((path for path in found if os.path.isfile(path)), None)

    paths.add_model_folder_path = add_model_folder_path
    paths.get_filename_list, paths.get_full_path = get_filename_list, get_full_path
    (tmp_path / "input").mkdir()
    return paths


@pytest.fixture
def folders(host, pack_module):
    folders = pack_module("nodes.folders", folder_paths=host)
    folders.register_folders()
    return folders


@pytest.fixture
def error(folders):
    return folders.SlotIDError


@pytest.mark.parametrize(
    "name",
    [
        "../anna", "a/../b", "a/b/c", "/tmp/anna", "C:\\anna", "C:anna", "a\\b", "..", ".", "", " ", "a/", "/a",
        "anna\0", "anna\n", ".hidden", "dir/.hidden", "anna.", "anna ", "con", "NUL.x", "a:b", "a*b", "~/a", "x" * 81,
    ],
)  # fmt: skip
def test_names_that_could_go_astray_are_refused(folders, error, tmp_path, name):
    with pytest.raises(error) as refusal:
        folders.new_identity_path(name, overwrite=False)
    assert "cannot be used for a file" in refusal.value.found
    assert folders.told(folders.check_name, name) == str(refusal.value)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["anna", "actors/anna", "Anna K. (2)", "Żółw", "anna.safetensors", "a.b-c_d+e"])
def test_plain_names_stay_inside_the_identities_folder(folders, tmp_path, name):
    path = folders.new_identity_path(name, overwrite=False)
    assert path.resolve().is_relative_to(tmp_path / "models" / "slot_id" / "identities")
    assert path.name == os.path.basename(name).removesuffix(".safetensors") + ".safetensors"
    assert folders.told(folders.check_name, name) is True


def test_a_name_in_use_is_numbered_unless_overwritten(folders):
    first = folders.new_identity_path("anna", overwrite=False)
    first.write_bytes(b"x")
    second = folders.new_identity_path("anna", overwrite=False)
    second.write_bytes(b"x")
    assert [second.name, folders.new_identity_path("anna", overwrite=False).name] == [
        "anna_02.safetensors",
        "anna_03.safetensors",
    ]
    assert folders.new_identity_path("anna", overwrite=True) == first


def test_identities_are_not_listed_as_models(folders, tmp_path):
    root = tmp_path / "models" / "slot_id"
    for name in ("model.safetensors", "model.ckpt", "identities/anna.safetensors", "identities/cast/ben.safetensors"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(b"x")
    listed = [name for name in folders.model_files() if name != demo_files().slot_id.name]
    assert listed == ["model.safetensors"]
    assert folders.identity_files() == ["anna.safetensors", os.path.join("cast", "ben.safetensors")]
    assert folders.identity_path("anna.safetensors") == str(root / "identities" / "anna.safetensors")


def test_the_demo_files_are_listed_by_the_stock_loaders(folders, host):
    for path in demo_files().weights():
        assert str(path.parent) in host.get_folder_paths(path.parent.name)


def test_an_entry_of_extra_model_paths_keeps_its_place_and_lists_models_only(host, pack_module, tmp_path):
    host.folder_names_and_paths["slot_id"] = ([str(tmp_path / "elsewhere")], set())
    folders = pack_module("nodes.folders", folder_paths=host)
    folders.register_folders()
    assert host.get_folder_paths("slot_id")[0] == str(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes.txt").write_text("x")
    assert "notes.txt" not in folders.model_files()


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "missing.mp4", "a\0.mp4", "../x.mp4 [temp]"])
def test_a_reference_comes_from_the_input_folder_or_the_samples(folders, error, tmp_path, name):
    (tmp_path / "secret.mp4").write_bytes(b"x")
    with pytest.raises(error, match="There is no reference video"):
        folders.reference_path(name)


def test_references_listed_are_found(folders, tmp_path):
    for name in ("clip.mp4", "photo.png", "sound.mp3"):
        (tmp_path / "input" / name).write_bytes(b"x")
    listed = folders.reference_files()
    assert listed[:2] == ["clip.mp4", "photo.png"]
    assert [os.path.basename(folders.reference_path(name)) for name in listed[2:]] == [
        path.name for path in demo_files().clips
    ]
    assert len(listed) > 2
    # The page shows a preview of what is chosen, which it fetches by this name.
    assert sorted(os.listdir(tmp_path / "temp")) == [name.removesuffix(" [temp]") for name in listed[2:]]


def test_a_missing_model_says_where_it_goes(folders, error):
    with pytest.raises(error, match="models/slot_id"):
        folders.model_path("../../../etc/passwd")
    assert "press R" in folders.told(folders.model_path, "none.safetensors")


def test_a_missing_identity_says_which_node_saves_one(folders):
    assert "Save Identity" in folders.told(folders.identity_path, "kim.safetensors")


def test_a_changed_file_changes_its_stamp(folders, tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"1")
    before = folders.stamp(file)
    os.utime(file, ns=(1, 1))
    assert folders.stamp(file) != before
