"""Every node's schema against its execute, read from the source, so that no ComfyUI is needed.

What a running ComfyUI makes of the schemas is held in tests/host.
"""

import ast
import types
from pathlib import Path

import pytest

from slotid_core.influence import PRESETS, settings_of

PACK = Path(__file__).resolve().parents[2]


def node_classes():
    for path in sorted((PACK / "nodes").glob("*.py")):
        for item in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(item, ast.ClassDef) and any(ast.unparse(base) == "io.ComfyNode" for base in item.bases):
                yield pytest.param(item, id=item.name)


def method(node, name):
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def schema_words(node):
    """Keywords of the one Schema that define_schema returns."""
    call = method(node, "define_schema").body[-1].value
    assert ast.unparse(call.func) == "declare" and ast.unparse(call.args[0]) == "io.Schema"
    return {word.arg: word.value for word in call.keywords}


def inputs(node):
    """(id, keywords) of each input, in order."""
    for call in schema_words(node)["inputs"].elts:
        first, *rest = call.args
        identifier = rest[0] if ast.unparse(call.func) == "declare" else first
        yield identifier.value, {word.arg: word.value for word in call.keywords}


def outputs(node):
    for call in schema_words(node)["outputs"].elts:
        yield call.args[0].value, {word.arg: word.value for word in call.keywords}


NODES = list(node_classes())


def test_all_nodes_are_handed_to_the_host():
    source = ast.parse((PACK / "nodes" / "extension.py").read_text(encoding="utf-8"))
    handed = next(item.value for item in source.body if isinstance(item, ast.AnnAssign) and item.target.id == "NODES")
    assert sorted(ast.unparse(name) for name in handed.elts) == sorted(param.id for param in NODES)
    assert len(NODES) == 13


@pytest.mark.parametrize("node", NODES)
def test_execute_takes_what_the_schema_declares(node):
    execute = method(node, "execute").args
    names = [argument.arg for argument in execute.args[1:]]
    assert names == [identifier for identifier, _ in inputs(node)]
    optional = [identifier for identifier, words in inputs(node) if "optional" in words]
    assert names[len(names) - len(execute.defaults) :] == optional


@pytest.mark.parametrize("node", NODES)
def test_execute_gives_what_the_schema_declares(node):
    declared = list(outputs(node))
    returned = [item for item in ast.walk(method(node, "execute")) if isinstance(item, ast.Return)]
    assert {len(item.value.args) for item in returned} == {len(declared)}
    # 0.3.64 refuses an output with the id of an input.
    assert not {identifier for identifier, _ in declared} & {identifier for identifier, _ in inputs(node)}


@pytest.mark.parametrize("node", NODES)
def test_everything_is_explained(node):
    words = schema_words(node)
    identifier = words["node_id"].value
    assert identifier.startswith("SlotID") and words["display_name"].value.startswith("Slot-ID ")
    assert "CATEGORY" in ast.unparse(words["category"]) and len(ast.unparse(words["description"])) > 40
    for name, declared in [*inputs(node), *outputs(node)]:
        assert "tooltip" in declared, name
    # Without one, 0.3.64 shows the type: two outputs called CONDITIONING.
    assert all("display_name" in declared for _, declared in outputs(node))
    page = (PACK / "web" / "docs" / f"{identifier}.md").read_text(encoding="utf-8")
    for name, _ in inputs(node):
        assert f"**{name}**" in page, f"the help page does not explain {name}"
        # The front end adds a "randomize" widget to an INT of this name.
        assert name != "seed"


@pytest.mark.parametrize("node", NODES)
def test_newer_schema_words_go_through_declare(node):
    """`advanced=` straight to a class of 0.3.64 would keep the whole pack from loading."""
    for call in ast.walk(method(node, "define_schema")):
        if isinstance(call, ast.Call) and ast.unparse(call.func) != "declare":
            newer = {"advanced", "search_aliases", "has_intermediate_output"} & {word.arg for word in call.keywords}
            assert not newer, f"{ast.unparse(call.func)} gets {newer}"


def test_presets_are_told_with_their_numbers():
    apply = next(param.values[0] for param in NODES if param.id == "Apply")
    tooltip = ast.literal_eval(dict(inputs(apply))["preset"]["tooltip"])
    page = (PACK / "web" / "docs" / "SlotIDApply.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        assert f"{name}: {settings_of(preset)}." in tooltip
        assert f"| {name} | {settings_of(preset)} |" in page


def test_what_came_later_stands_last_and_may_be_missing():
    """Saved graphs hold widgets by place, and prompts in API form leave out what they did not know."""
    apply = next(param.values[0] for param in NODES if param.id == "Apply")
    names = [name for name, _ in inputs(apply)]
    first = ["model", "slotid_model", "identity", "strength", "start_percent", "end_percent"]
    assert names[: len(first)] == first
    assert all("optional" in words for name, words in inputs(apply) if name not in first)


@pytest.fixture
def declare(pack_module):
    latest = types.ModuleType("comfy_api.latest")
    latest.io = types.SimpleNamespace(Custom=lambda name: name)
    return pack_module("nodes.sockets", comfy_api=types.ModuleType("comfy_api"), comfy_api__latest=latest).declare


def test_declare_leaves_out_words_an_older_host_lacks(declare):
    def old(name, tooltip=None):
        return name, tooltip

    def new(name, tooltip=None, advanced=None):
        return name, tooltip, advanced

    assert declare(old, "strength", tooltip="x", advanced=True) == ("strength", "x")
    assert declare(new, "strength", tooltip="x", advanced=True) == ("strength", "x", True)


def test_declare_does_not_hide_a_misspelt_word(declare):
    with pytest.raises(TypeError):
        declare(lambda name, tooltip=None: name, "strength", tootip="x")


def test_the_pack_exports_no_v1_mappings():
    """A NODE_CLASS_MAPPINGS beside comfy_entrypoint would win, and the nodes would be gone."""
    names = {n.id for n in ast.walk(ast.parse((PACK / "__init__.py").read_text())) if isinstance(n, ast.Name)}
    assert "WEB_DIRECTORY" in names and "NODE_CLASS_MAPPINGS" not in names
