"""The paper's values, the verdicts, the comparisons and what is kept of them."""

import json
import math
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from i2p_lib import paper
from i2p_lib.data import dataset_names
from i2p_lib.paper.items import VALUES_FILE
from i2p_lib.paper.record import MIME
from i2p_lib.runs.spec import RunSpec


def ours(method="scratch", values=(90.0,), **key):
    row = {"dataset": "modelnet40", "model": "resnet50", "pretraining": "none",
           "metric": "top1", "as_in_paper": True} | key  # fmt: skip
    return pd.DataFrame([row | {"method": method, "value": v} for v in values])


def line(table: pd.DataFrame, **key) -> pd.Series:
    for name, value in key.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_the_papers_values_are_all_there():
    """Promise: every printed value that is known is in the table, with its text fields intact."""
    values = paper.paper_values()
    counts = values["item"].value_counts().to_dict()
    assert counts == {"table1": 17, "table2": 9, "table3": 18, "fig3": 10, "table5": 15,
                      "table4": 4, "fig2a": 10, "fig2b": 2}  # fmt: skip
    r50 = line(values, item="fig3", model="resnet50", method="scratch", metric="epochs_to_90")
    assert r50["value"] == 122 and r50["pretraining"] == "none"
    assert line(values, item="table3", model="resnet152", method="fip-all", shots=1)["std"] == 1.3
    assert not values.drop(columns=["shots", "std", "value"]).isna().any(axis=None)
    unread = values[values["value"].isna()]
    assert len(unread) == 8 and set(unread["item"]) == {"fig2a"}, "bars of a figure, no others"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("fig2a,", "fig9,", "line 2: unknown item"),
        ("81.20", "81,20", "line 2: expected columns .*, got 12"),
        ("81.20", "high", "line 2: value is not a number"),
        ("81.20", "inf", "line 2: value is not a number"),
        ("resnet50,fip-io,imagenet1k", ",fip-io,imagenet1k", "line 2: model is empty"),
        ("fip-io+bn,imagenet21k", "fip-io,imagenet1k", "line 3: the same key"),
        ("item,dataset", "item,data", "line 1: expected columns"),
    ],
)
def test_a_damaged_table_of_values_is_refused(tmp_path, old, new, message):
    """Promise: a slip in the file is an error that names the line."""
    text = VALUES_FILE.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "values.csv").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        paper.paper_values(tmp_path / "values.csv")


def test_every_item_has_a_chapter_and_the_unseen_have_no_values():
    """Promise: the list of items is complete, and holds no number for text that nobody saw."""
    assert set(paper.paper_values()["item"]) <= set(paper.paper_items())
    unseen = {i.id for i in paper.paper_items().values() if not i.seen}
    assert unseen == {"collapse", "source_collapse", "forecast", "few_shot_bound",
                      "pointcontrast", "semi_supervised"}  # fmt: skip
    assert not set(paper.paper_values()["item"]) & unseen
    chapters = {"00_method", "01_transfer", "02_benchmarks", "03_few_shot",
                "04_training_speedup", "05_neural_collapse", "07_segmentation",
                "08_discussion"}  # fmt: skip
    assert {i.chapter for i in paper.paper_items().values()} == chapters
    assert all(i.needs and i.section and i.title for i in paper.paper_items().values())


@pytest.mark.parametrize(
    "settings, expected",
    [
        (dict(paper=90.3, ours=91.3), "reproduced"),
        (dict(paper=90.3, ours=89.3), "reproduced"),
        (dict(paper=90.3, ours=91.31), "differs"),
        (dict(paper=23.3, ours=31.8, paper_std=4.3), "reproduced"),
        (dict(paper=23.3, ours=32.0, paper_std=4.3), "differs"),
        (dict(paper=70.0, ours=79.9, paper_std=3.0, ours_std=4.0), "reproduced"),
        (dict(paper=122, ours=110, metric="epochs_to_90"), "reproduced"),
        (dict(paper=11, ours=13, metric="epochs_to_90"), "differs"),
        (dict(paper=90.3, ours=90.3, same_setting=False), "other setting"),
        (dict(paper=90.3, ours=10.0, same_setting=False), "other setting"),
        (dict(paper=None, ours=10.0, same_setting=False, shown=True), "other setting"),
        (dict(paper=math.nan, ours=50.0), "not in the paper"),
        (dict(paper=90.3, ours=math.nan, needs="S3DIS"), "not run: needs S3DIS"),
        (dict(paper=90.3, ours=None), "not run"),
    ],
)
def test_the_rule_of_the_verdicts(settings, expected):
    """Promise: the written rule, at its edges; another setting is never called reproduced."""
    assert paper.verdict(**{"same_setting": True} | settings) == expected


def test_without_runs_every_row_says_what_it_needs():
    """Promise: the paper's rows are all shown, in order, and none pretends to have been run."""
    table = paper.compare("table1")
    assert len(table) == 17 and table["verdict"].str.startswith("not run: needs ModelNet40").all()
    assert list(table.columns) == paper.COMPARISON_COLUMNS
    vit = line(table, model="vit_b_16", method="fip-all")
    assert vit["verdict"].endswith("needs ModelNet40, ImageNet-21k weights")
    assert "never released" in line(table, model="simpleview", method="fip-all")["verdict"]
    assert paper.compare("collapse").empty


def test_the_papers_own_setting_is_judged():
    """Promise: mean, spread, seeds and difference of the same setting stand beside the paper's."""
    runs = pd.concat([ours(values=[90, 91, 92]),
                      ours("fip-all", [85], pretraining="imagenet1k")])  # fmt: skip
    table = paper.compare("table1", runs)
    scratch = line(table, model="resnet50", method="scratch")
    assert scratch[["ours", "ours_std", "seeds"]].tolist() == [91, 1, 3]
    assert scratch["difference"] == pytest.approx(0.68)
    assert (scratch["verdict"], scratch["setting"]) == ("reproduced", "as in the paper")
    assert line(table, model="resnet50", pretraining="imagenet1k")["verdict"] == "differs"
    assert len(table) == 17


def test_the_same_data_with_another_recipe_is_another_setting():
    """Promise: without the paper's recipe nothing counts as reproduced, however close."""
    table = paper.compare("table1", ours(values=[90.32], as_in_paper=False))
    row = line(table, model="resnet50", method="scratch")
    assert (row["verdict"], row["setting"]) == ("other setting", "other recipe")
    assert math.isnan(row["difference"])


def test_a_bar_that_nobody_could_read_has_no_number_and_another_setting_beside_it():
    """Promise: image weights of ours stand in the line of the paper's, and are named."""
    runs = ours("fip-io", dataset="home_objects", model="resnet18", pretraining="fractal",
                as_in_paper=False)  # fmt: skip
    stand_in = {"resnet18": "resnet50", "fractal": "fractaldb1k"}
    table = paper.compare("fig2a", runs, stand_in=stand_in)
    row = table[table["ours"].notna()].iloc[0]
    assert (row["pretraining"], row["verdict"]) == ("fractaldb1k", "other setting")
    assert math.isnan(row["paper"]) and row["setting"].endswith(", resnet18, fractal weights")
    others = table[table["ours"].isna() & table["paper"].isna()]
    assert others["verdict"].str.startswith("not run: needs ModelNet40, ").all()
    assert len(others) == 7


def test_a_stand_in_is_shown_in_its_line_and_named():
    """Promise: our model on our data stands beside the paper's line, as another setting."""
    runs = pd.concat([ours(m, [30, 40], dataset="home_objects", model="efficientnet_lite0",
                           pretraining=p, shots=5, as_in_paper=False)
                      for m, p in (("scratch", "none"), ("control-io", "none"))])  # fmt: skip
    table = paper.compare("table3", runs, stand_in={"efficientnet_lite0": "resnet18"})
    row = line(table, model="resnet18", method="scratch", shots=5)
    assert (row["paper"], row["ours"], row["seeds"]) == (63.7, 35, 2)
    assert (row["verdict"], row["setting"]) == ("other setting", "home_objects, efficientnet_lite0")
    assert line(table, method="control-io")["verdict"] == "not in the paper"
    assert len(table) == 19
    alone = paper.compare("table3", runs)
    assert len(alone) == 20 and alone["verdict"].eq("not in the paper").sum() == 2


def test_wrong_rows_of_ours_are_refused():
    """Promise: fractions, missing columns, failed runs and unknown items are errors."""
    with pytest.raises(ValueError, match="per cent"):
        paper.compare("table1", ours(values=[0.9]))
    with pytest.raises(ValueError, match="lack the columns \\['metric'\\]"):
        paper.compare("table1", ours().drop(columns="metric"))
    with pytest.raises(ValueError, match="finite"):
        paper.compare("table1", ours(values=[math.nan]))
    with pytest.raises(ValueError, match="unknown item 'table9'"):
        paper.compare("table9")


def test_rows_of_runs_know_the_papers_recipe_from_any_other():
    """Promise: a run is in the paper's setting only where every setting of the recipe is."""
    recipe = {k: v[0] if isinstance(v, tuple) else v for k, v in paper.PAPER_RECIPE.items()}
    full = RunSpec(data="modelnet40", model="wide_resnet101_2", weights="random", epochs=300,
                   **recipe)  # fmt: skip
    specs = [full, full.but(epochs=10), full.but(protocol="clean"), full.but(test_limit=100)]
    runs = pd.DataFrame([s.row() | {"top1": 0.9003} for s in specs])
    rows = paper.rows_of_runs(runs)
    assert rows["as_in_paper"].tolist() == [True, False, False, False]
    assert (rows.loc[0, "method"], rows.loc[0, "pretraining"]) == ("scratch", "none")
    table = paper.compare("table1", rows)
    assert table[table.model == "resnet101x2"].verdict.tolist()[:2] == [
        "reproduced", "not run: needs ModelNet40, ImageNet-1k weights"]
    assert "modelnet40" in dataset_names()
    with pytest.raises(ValueError, match="lacks the columns \\['top1'"):
        paper.rows_of_runs(runs.drop(columns="top1"))


class Texts(HTMLParser):
    """Collects tags and texts, as a browser would."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_the_html_escapes_every_text():
    """Promise: no text of a table can become markup."""
    evil = "<script>alert('x')</script>&"
    runs = ours(evil, [50], dataset=evil, model=evil, metric=evil, pretraining=evil)
    table = pd.concat([paper.compare("collapse", runs), paper.compare("table4")])
    page = Texts(paper.comparison_html(table))
    assert "script" not in page.tags and page.texts.count(evil) == 4
    assert f"{evil}, {evil}" in page.texts and "modelnet40" in page.texts


def test_the_html_shows_numbers_and_verdicts():
    """Promise: values, spreads, signs and the verdict's word are there; empty columns are not."""
    page = Texts(paper.comparison_html(paper.compare("table1", ours(values=[88.02, 88.02]))))
    for text in ("90.32", "88.0 ± 0.0", "−2.3", "differs", "not run", "needs ModelNet40"):
        assert text in page.texts
    assert "shots" not in page.texts and "verdict" in page.texts
    fig3 = Texts(paper.comparison_html(paper.compare("fig3"))).texts
    assert "122" in fig3 and "epochs to 90" in fig3
    assert "No run of this profile" in paper.comparison_html(paper.compare("collapse"))
    alone = ours(values=[0.5, 0.6], metric="cdnv_test")
    assert "our setting" not in Texts(paper.comparison_html(paper.compare("collapse", alone))).texts
    with pytest.raises(ValueError, match="compare\\(\\)"):
        paper.comparison_html(pd.DataFrame({"a": [1]}))


def test_a_value_that_the_paper_does_not_print_carries_a_mark():
    """Promise: what is derived or quoted says so, beside its number and below the table."""
    page = paper.comparison_html(paper.compare("fig2b"))
    assert "90.44<sup>b</sup>" in page and "78.69<sup>a</sup>" in page
    assert "<sup>a</sup> arXiv v1, quoted by a third party" in page
    assert "<sup>b</sup> derived (90.28 + 0.16)" in page
    assert "<sup>" not in paper.comparison_html(paper.compare("table1"))


def test_many_values_that_the_paper_lacks_are_folded_away():
    """Promise: nothing is lost, and the paper's rows stay in sight."""
    further = pd.concat([ours(values=[n / 100], metric=f"shuffled_{n}") for n in range(20, 29)])
    page = paper.comparison_html(paper.compare("table4", further))
    seen, folded = page.split("<details")
    assert "9 further values of ours, not in the paper" in folded and folded.count("<tr>") == 10
    assert "81.2" in seen and "shuffled" not in seen
    few = paper.comparison_html(paper.compare("table4", further.head(8)))
    assert "<details" not in few and few.count("shuffled") == 8


def test_what_is_attached_comes_back_as_it_was(cell_outputs):
    """Promise: what a chapter attaches is what the overview reads; of two the last counts."""
    paper.attach("table3", paper.compare("table3"), "demo")
    table = paper.compare("table3", ours(values=[50, 52], shots=5))
    paper.attach("table3", table, "demo", ["fig-a", "fig-b"])
    paper.attach("fig1", paper.compare("fig1"), "demo")
    found = paper.attached([*cell_outputs, {"output_type": "stream", "text": "x"}], "demo")
    assert list(found) == ["table3", "fig1"] and paper.attached([], "demo") == {}
    pd.testing.assert_frame_equal(found["table3"].table, table)
    assert found["table3"].figures == ("fig-a", "fig-b")
    assert found["fig1"].table.empty
    assert paper.verdict_counts(found["table3"].table) == {"differs": 1, "not run": 17}


def test_outside_a_notebook_nothing_is_attached(tmp_path, monkeypatch):
    """Promise: comparing leaves no file anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2P_BUILD", str(tmp_path / "build"))
    assert paper.attach("table4", paper.compare("table4"), "demo") is None
    assert list(tmp_path.iterdir()) == []


def test_only_what_compare_made_is_attached(cell_outputs):
    """Promise: an unknown item or another table is an error in the cell that has it."""
    with pytest.raises(ValueError, match="unknown item 'table9'"):
        paper.attach("table9", paper.compare("table4"), "demo")
    with pytest.raises(ValueError, match="compare\\(\\)"):
        paper.attach("table4", pd.DataFrame({"a": [1]}), "demo")
    assert cell_outputs == []


def _drop_verdict(content):
    del content["rows"][0]["verdict"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("figures"),
        lambda c: c.update(item="table99"),
        lambda c: c.update(profile="paper"),
        lambda c: c.update(rows=5),
        _drop_verdict,
        lambda c: c["rows"][0].update(verdict="perfect"),
        lambda c: c["rows"][0].update(paper="many"),
    ],
)
def test_a_damaged_comparison_is_refused(cell_outputs, damage):
    """Promise: the overview never shows a comparison that compare() did not make."""
    paper.attach("table4", paper.compare("table4"), "demo")
    damage(cell_outputs[0]["data"][MIME])
    with pytest.raises(ValueError, match="damaged comparison .*; run its chapter again"):
        paper.attached(cell_outputs, "demo")
    cell_outputs[0]["data"][MIME] = "half"
    with pytest.raises(ValueError, match="damaged comparison"):
        paper.attached(cell_outputs, "demo")


def test_what_is_attached_is_plain_json_and_shows_nothing(cell_outputs):
    """Promise: missing numbers are null; NaN, which JSON does not know, is never written."""
    paper.attach("table4", paper.compare("table4"), "demo")
    text = json.dumps(cell_outputs[0]["data"], allow_nan=False)
    data = json.loads(text, parse_constant=pytest.fail)
    rows = data[MIME]["rows"]
    assert rows[0]["ours"] is None and rows[0]["paper"] == 81.2 and rows[0]["seeds"] == 0
    assert not np.isnan([r["paper"] for r in rows]).any()
    assert {kind: text for kind, text in data.items() if kind != MIME} == {"text/html": ""}
