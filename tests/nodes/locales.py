"""What the nodes say, read from their source: the English locale file.

After a change to a node's words: `python -m tests.nodes.locales` writes locales/en/nodeDefs.json anew.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
ENGLISH = PACK / "locales" / "en" / "nodeDefs.json"


def node_definitions() -> dict:
    """{node id: {display_name, description, inputs: {id: {name, tooltip}}, outputs: {place: {name, tooltip}}}}."""
    found = {}
    for path in sorted((PACK / "nodes").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            item.targets[0].id: item.value.value
            for item in tree.body
            if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)
        }
        for item in tree.body:
            if isinstance(item, ast.ClassDef) and any(ast.unparse(base) == "io.ComfyNode" for base in item.bases):
                identifier, definition = _definition(item, constants)
                found[identifier] = definition
    return dict(sorted(found.items()))


def _definition(node: ast.ClassDef, constants: dict[str, str]) -> tuple[str, dict]:
    method = next(item for item in node.body if getattr(item, "name", "") == "define_schema")
    words = _words(method.body[-1].value)

    def text(value: ast.expr) -> str:
        return constants[value.id] if isinstance(value, ast.Name) else ast.literal_eval(value)

    definition = {"display_name": text(words["display_name"]), "description": text(words["description"]), "inputs": {}}
    for call in words["inputs"].elts:
        name = call.args[1 if ast.unparse(call.func) == "declare" else 0].value
        definition["inputs"][name] = {"name": name, "tooltip": text(_words(call)["tooltip"])}
    if words["outputs"].elts:
        definition["outputs"] = {
            str(place): {"name": text(_words(call)["display_name"]), "tooltip": text(_words(call)["tooltip"])}
            for place, call in enumerate(words["outputs"].elts)
        }
    return text(words["node_id"]), definition


def _words(call: ast.Call) -> dict[str, ast.expr]:
    return {word.arg: word.value for word in call.keywords}


if __name__ == "__main__":
    ENGLISH.write_text(json.dumps(node_definitions(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
