"""The import directions of the design: each stage knows only the stages to its left."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "slotid_core"
BASE = {"errors", "config", "atomic", "checkpoint", "ops"}
# Left to right; a stage may import BASE, what stands before it, and the other files of its own stage.
STAGES = [["video"], ["detectors", "sheets", "faces"], ["likeness"], ["latents"], ["tokens"], ["slots"]]
STAGES += [["routing_sheet"], ["identity"], ["identity_card", "merging"], ["conditioning"], ["masks"]]
STAGES += [["influence"], ["guidance"], ["model"]]
STAGES += [["pipelines", "demo", "training"], ["evaluation"], ["commands"], ["cli"], ["__main__"]]
PATCHING = ("set_model_", "add_wrapper", "add_object_patch", "add_callback", "add_patches", "set_additional_models")
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server", "execution"}


def files():
    return sorted(CORE.rglob("*.py"))


def stage_of(path):
    return path.relative_to(CORE).with_suffix("").parts[0]


def imports(path):
    """(module as written, level, line, inside a function or TYPE_CHECKING block) of each import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if typing_only or isinstance(node, ast.FunctionDef):
            late |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((name, node.level, node.lineno, id(node) in late) for name in names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, 0, node.lineno, id(node) in late) for alias in node.names)


def core_target(path, module, level):
    """The stage a relative import reaches, or None for one that stays inside its own folder."""
    if level == 0:
        return None
    package = path.relative_to(CORE).parent.parts
    base = package[: len(package) - (level - 1)]
    full = (*base, *module.split("."))
    return full[0]


def rank(stage):
    return next(i for i, names in enumerate(STAGES) if stage in names)


def test_every_core_file_has_its_place():
    known = BASE | {name for names in STAGES for name in names} | {"__init__"}
    assert {stage_of(path) for path in files()} <= known


def test_stages_import_only_to_the_left():
    wrong = []
    for path in files():
        stage = stage_of(path)
        if stage == "__init__":
            continue
        for module, level, line, late in imports(path):
            target = core_target(path, module, level)
            # A later stage may be named for type checking, or imported inside the one function that hands over to it.
            if target in (None, stage, "__version__") or target in BASE or late:
                continue
            if stage in BASE or rank(target) > rank(stage):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {target}")
    assert wrong == []


def test_base_imports_base_only():
    order = ["errors", "config", "atomic", "checkpoint", "ops"]
    for path in files():
        if (stage := stage_of(path)) in BASE:
            targets = {core_target(path, module, level) for module, level, _, _ in imports(path)} - {None, stage}
            assert targets <= set(order[: order.index(stage)]), path


def test_core_imports_nothing_of_comfyui_and_pickles_nothing():
    for path in files():
        tops = {module.split(".")[0] for module, level, _, _ in imports(path) if level == 0}
        assert not tops & HOST, path
        assert not tops & {"pickle", "requests", "urllib", "subprocess"}, path


def test_core_is_relative_inside():
    for path in files():
        assert "slotid_core" not in {m.split(".")[0] for m, level, _, _ in imports(path) if level == 0}, path


def test_nodes_import_the_core_relatively_and_only_wan_patch_touches_the_model():
    nodes = sorted((ROOT / "nodes").glob("*.py"))
    assert nodes
    for path in nodes:
        tops = {module.split(".")[0] for module, level, _, _ in imports(path) if level == 0}
        assert "slotid_core" not in tops, f"{path}: ComfyUI names the pack after its folder; import relatively"
        if path.name != "wan_patch.py":
            modules = {module for module, level, _, _ in imports(path) if level == 0}
            assert not {m for m in modules if m.startswith(("comfy.ldm", "comfy.patcher_extension"))}, path
            called = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
            assert not {n for n in called if n.startswith(PATCHING)}, path


def test_heavy_packages_are_imported_lazily():
    heavy = {"av", "cv2", "dlib", "insightface", "diffusers", "transformers", "matplotlib"}
    code = "import sys, slotid_core.model, slotid_core.faces, slotid_core.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "slotid_core.model" in loaded
    assert heavy.isdisjoint(loaded)
