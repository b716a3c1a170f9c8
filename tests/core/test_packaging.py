"""What an installer reads: requirements, versions, packaged files."""

import re
import sys
from pathlib import Path

import slotid_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WEIGHTS_LIMIT = 40 * 2**20


def requirements():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_requirements_are_the_projects_dependencies():
    assert requirements() == PROJECT["project"]["dependencies"]


def test_nothing_asks_for_torch():
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*requirements(), *(entry for entries in extras.values() for entry in entries)]
    names = {re.split(r"[<>=!~\[; ]", entry)[0].lower() for entry in asked}
    assert names.isdisjoint({"torch", "torchvision", "torchaudio", "triton"})


def test_versions_agree():
    assert PROJECT["project"]["version"] == slotid_core.__version__
    assert f"## {slotid_core.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_packaged_weights_stay_small():
    files = list((ROOT / "slotid_core" / "demo" / "assets").rglob("*.safetensors"))
    assert len(files) == 3 and sum(path.stat().st_size for path in files) <= WEIGHTS_LIMIT


def test_every_graph_has_its_thumbnail():
    graphs = sorted((ROOT / "workflows").glob("*.json"))
    assert len(graphs) >= 2
    assert all(path.with_suffix(".jpg").is_file() for path in graphs)


def test_files_stay_readable():
    sources = [path for folder in ("slotid_core", "nodes", "tests") for path in (ROOT / folder).rglob("*.py")]
    long = {str(path.relative_to(ROOT)): n for path in sources if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}
