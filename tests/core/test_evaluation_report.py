"""The report: made from the results on disk alone, the same every time, around prose that it leaves alone."""

import numpy as np
import pytest

from slotid_core.demo.people import TEST
from slotid_core.errors import SlotIDError
from slotid_core.evaluation.bootstrap import Bootstrap, Estimate
from slotid_core.evaluation.conditions import conditions_of
from slotid_core.evaluation.design import Design
from slotid_core.evaluation.measures import LOOKS, MOVES
from slotid_core.evaluation.page import blank, fill, section_names
from slotid_core.evaluation.report import SECTIONS, write_report
from slotid_core.evaluation.results import Run, Settings, open_study, read_runs, read_study, strip_path, write_run
from slotid_core.evaluation.sampling import Guidance
from slotid_core.evaluation.tables import Tables, cell
from slotid_core.evaluation.targets import HUES, KINDS
from slotid_core.sheets import save_image

pytest.importorskip("matplotlib")
PEOPLE = 20
SCENE = ("pose", "expression", "background", "yaw")
WORDS = {"pose": 5, "expression": 3, "background": 5}


def readings(rows, share, rng):
    """What a judge would read from videos that are right in `share` of everything and random in the rest."""

    def mixed(truth, guess):
        return np.where(rng.random(len(truth)) < share, truth, guess)

    count = len(rows["person"])
    columns = {}
    for name in (*LOOKS, *MOVES, *HUES):
        columns[name] = mixed(rows[name], rng.permutation(rows[name]))
    for name in KINDS:
        columns[name] = mixed(rows[name], rng.integers(0, 3, count)).astype(int)
    for name, options in WORDS.items():
        columns[name] = mixed(rows[name], rng.integers(0, options, count)).astype(int)
    return {
        **columns,
        "yaw": rows["yaw"],
        "motion": np.full(count, 0.02 * (1 + share)),
        "similarity": share + 0.1 * rng.normal(size=count),
        "impostors": 0.1 * rng.normal(size=(count, 3)),
        "features": rng.normal(size=(count, 4)) + 2 * (1 - share),
    }


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "evaluation"
    open_study(folder, Settings(Design(TEST.start, PEOPLE), Guidance(), 64, {"vae": "ab"}))
    rows, rng = read_study(folder)[1], np.random.default_rng(0)
    for name, variant, wrong, seed, share in (
        ("truth", "truth", False, None, 1.0),
        ("none", "none", False, None, 0.0),
        ("full.0", "full", False, 0, 0.9),
        ("full.1", "full", False, 1, 0.9),
        ("packaged", "packaged", False, 0, 0.95),
        ("packaged.wrong", "packaged", True, 0, 0.9),
        ("packaged.first", "packaged, first", False, 0, 0.5),
        ("first.0", "first", False, 0, 0.6),
    ):
        shown = {key: np.roll(values, -5) if wrong else values for key, values in rows.items()}
        columns = readings({**shown, **{key: rows[key] for key in SCENE}}, share, rng)
        if wrong:
            own, others = columns["similarity"], columns["impostors"]
            columns |= {"similarity": others[:, 0], "impostors": np.column_stack([own, others[:, 1:]])}
        write_run(folder, Run(name, variant, wrong, seed, seed and 9, columns, {}))
        strip = np.full((6 * 16, 5 * 16, 3), 15 * len(name), np.uint8)
        strip_path(folder, name).parent.mkdir(exist_ok=True)
        save_image(strip_path(folder, name), strip)
    return folder


def test_tables_say_what_is_in_the_results(results):
    rows, runs = read_study(results)[1], read_runs(results)
    conditions = conditions_of(rows, runs)
    # What was not run has no row, and what ships is not pooled with what was trained for comparison.
    assert list(conditions) == [
        "truth", "packaged", "packaged, first", "wrong", "followed", "none", "full", "first",
    ]  # fmt: skip
    assert len(conditions["full"].group.person) == 2 * 5 * PEOPLE and set(conditions["full"].group.seed) == {0, 1}
    tables = Tables(conditions, Bootstrap(rows["person"], 100))
    summary = tables.summary()
    assert "softmax" not in summary and "\n| real renders | " in summary
    for name, low, high in (("likeness (cosine)", 0.85, 0.95), ("hidden mark, kind", 0.85, 1.0)):
        value = tables._known["full", name]
        assert low < value.value < high and value.low < value.value < value.high
    assert abs(tables._known["truth", "looks (mean R²)"].value - 1) < 1e-4
    assert tables._known["wrong", "looks (mean R²)"].high < 0
    assert abs(tables._known["none", "hidden mark, kind"].value - 1 / 3) < 0.15
    assert abs(tables._known["none", "dynamic signature (mean r)"].value) < 0.2
    # The wrong reference's videos show the next person: judged as that person, they are right again.
    assert tables._known["followed", "looks (mean R²)"].value > 0.75
    assert tables._known["followed", "likeness (cosine)"].value > 0.8
    differences = tables.differences()
    assert "real renders" not in differences and "full: Sinkhorn" not in differences
    likeness = {row.split(" | ")[0]: float(row.split(" | ")[1].split(" ")[0]) for row in differences.splitlines()[2:]}
    assert likeness["| full minus photo: the clip's first frame"] == pytest.approx(0.3, abs=0.05)
    assert likeness["| packaged minus it, photo: the clip's first frame"] == pytest.approx(0.45, abs=0.05)
    assert "| packaged minus wrong reference |" in differences and "packaged minus photo" not in differences
    tables.faithfulness()
    assert tables._known["truth", "distance"].value == pytest.approx(0, abs=1e-6)
    assert tables._known["none", "distance"].value > 10
    assert tables._known["truth", "pose"].value == 1 and tables._known["truth", "motion"].value == 1
    csv = tables.csv()
    assert csv.startswith("condition,measure,value,low,high,videos\n") and "full,hidden mark, kind" not in csv
    assert 'full,"hidden mark, kind",' in csv


def test_the_report_comes_out_the_same_and_leaves_prose_alone(results, tmp_path):
    page = tmp_path / "evaluation.md"
    prose = blank("A title of one's own", SECTIONS).replace("## The judges", "Read this first.\n\n## The judges")
    page.write_text(prose)
    written = write_report(results, page)
    first = {path: path.read_bytes() for path in written}
    text = page.read_text()
    assert text.startswith("# A title of one's own\n") and "Read this first." in text
    assert "| full: Sinkhorn + GRU + dustbin |" in text and "Not measured yet." in text
    assert "held out from all training" in text and "(images/evaluation_people.png)" in text
    assert {path.name for path in written} >= {"figures.csv", "evaluation_gap.png", "evaluation_smile.png"}
    again = write_report(results, page)
    assert {path: path.read_bytes() for path in again} == first


def test_a_page_without_room_is_refused(results, tmp_path):
    page = tmp_path / "evaluation.md"
    page.write_text("# Mine\n")
    with pytest.raises(SlotIDError, match="begin run"):
        write_report(results, page)
    assert page.read_text() == "# Mine\n"


def test_sections_are_filled_between_their_markers():
    page = "before\n<!-- begin a -->\nold\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\nafter\n"
    made = fill(page, {"b": "new b", "a": "new a"})
    assert made == (
        "before\n<!-- begin a -->\nnew a\n<!-- end a -->\nbetween\n<!-- begin b -->\nnew b\n<!-- end b -->\nafter\n"
    )
    assert fill(made, {"a": "new a"}) == made and section_names(made) == ["a", "b"]
    for broken in (page.replace("<!-- end a -->", ""), page + "<!-- begin a -->"):
        with pytest.raises(SlotIDError, match="'a'"):
            fill(broken, {"a": "x"})


def test_cells():
    assert cell(Estimate(0.914, 0.881, 0.93, 9)) == "0.91 [0.88, 0.93]"
    assert cell(Estimate(-0.001, -0.2, 0.2, 9)) == "0.00 [-0.20, 0.20]"
    assert cell(Estimate(float("nan"), float("nan"), float("nan"), 0)) == "-"


def test_the_repositorys_page_has_room_for_every_section():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert set(section_names(page)) == set(SECTIONS)
