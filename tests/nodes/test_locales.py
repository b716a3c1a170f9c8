"""The page's own languages: complete, and in the form that ComfyUI serves at /i18n."""

import json
import re

import pytest

from .locales import ENGLISH, PACK, node_definitions

LANGUAGES = sorted(path.name for path in (PACK / "locales").iterdir())


def shape(entry):
    """Keys without their texts."""
    return {key: shape(value) for key, value in entry.items()} if isinstance(entry, dict) else None


def read(language, name):
    return json.loads((PACK / "locales" / language / name).read_text(encoding="utf-8"))


def test_english_is_what_the_nodes_say():
    message = "run `python -m tests.nodes.locales`, and bring the other languages up to it"
    assert json.loads(ENGLISH.read_text(encoding="utf-8")) == node_definitions(), message


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_says_everything(language):
    assert shape(read(language, "nodeDefs.json")) == shape(node_definitions())
    assert shape(read(language, "main.json")) == shape(read("en", "main.json"))


def test_chinese_is_chinese():
    assert "zh" in LANGUAGES

    def texts(entry):
        for value in entry.values():
            yield from texts(value) if isinstance(value, dict) else [value]

    plain = [text for text in texts(read("zh", "nodeDefs.json")) if not re.search(r"[\u4e00-\u9fff]", text)]
    assert set(plain) <= {"VAE", "JSON"}


def test_types_that_have_a_name_exist():
    sockets = (PACK / "nodes" / "sockets.py").read_text(encoding="utf-8")
    assert read("en", "main.json")["dataTypes"].keys() == set(re.findall(r'Custom\("(SLOTID_\w+)"\)', sockets))
