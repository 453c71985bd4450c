"""The segmentation chapter's tables, sentences and pictures say what the runs hold."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_notebooks import chapter_functions

from i2p_lib import paper
from i2p_lib.analysis import segmentation as metrics
from i2p_lib.show import comparison, turning
from i2p_lib.sources import PACKAGE


@pytest.fixture(scope="module")
def chapter():
    """The functions that the chapter's cells define."""
    return chapter_functions(PACKAGE.parent / "notebooks" / "07_segmentation.ipynb")


def test_the_rows_stand_beside_the_papers_in_another_setting(rooms, chapter):
    """Promise: Table 2 shows our mIoU in the paper's row, and says that the setting is other."""
    _, results = rooms
    rows = paper.rows_of_runs(chapter.scene_runs(results))
    rows["dataset"] = "simulated_rooms"
    table = paper.compare("table2", rows, stand_in=chapter.STAND_INS)
    ours = table[table["ours"].notna()]
    assert list(ours["dataset"]) == ["s3dis_area5"] * 2
    assert list(ours["model"]) == ["resnet18"] * 2
    assert list(ours["method"]) == ["scratch", "fip-all"]
    assert list(ours["verdict"]) == ["other setting"] * 2
    assert all("simulated_rooms, unet:efficientnet_lite0" in text for text in ours["setting"])
    assert list(ours["ours"]) == pytest.approx([100 * r.metrics["miou"] for r in results])
    missing = table[table["ours"].isna()]
    assert len(table) == 9 and missing["verdict"].str.startswith("not run: needs").all()


def test_runs_from_fractals_have_rows_of_their_own(rooms, chapter):
    """Promise: no row that is labelled with the paper's images holds a number of others."""
    _, results = rooms
    rows = paper.rows_of_runs(chapter.scene_runs(results[1:])).assign(
        dataset="simulated_rooms", model="unet:resnet18", pretraining="fractal"
    )
    table = paper.compare("table2", rows, stand_in=chapter.STAND_INS)
    (line,) = table[table["ours"].notna()].to_dict("records")
    assert line["pretraining"] == "fractal" and np.isnan(line["paper"])
    assert line["verdict"] == "not in the paper"


def test_the_class_table_is_the_confusion_matrix_read_by_class(rooms, chapter):
    _, results = rooms
    table = chapter.class_table(results)
    assert len(table) == 2 * 13
    mine = table[table["method"] == "FIP-ALL"].set_index("class")
    counts = results[1].confusion()
    assert mine["points"].sum() == counts.to_numpy().sum()
    assert np.isnan(mine["iou"]["beam"]) and not np.isnan(mine["iou"]["wall"])
    hits = counts.loc["wall", "wall"]
    union = counts.loc["wall"].sum() + counts["wall"].sum() - hits
    assert mine["iou"]["wall"] == pytest.approx(hits / union)


def test_both_rules_stand_side_by_side(rooms, chapter):
    _, results = rooms
    table = chapter.by_either_rule(results).set_index("method")
    line = table.loc["scratch"]
    assert line["absent classes"] == 13 - 4
    assert line["absent counts 1"] == pytest.approx((4 * line["absent skipped"] + 900) / 13)
    assert line["as released"] == pytest.approx((4 * line["absent skipped"] + 1000) / 14)


@dataclass
class Segmented:
    """What the chapter's intervals read of a run: its seed, and the counts of each scene."""

    spec: SimpleNamespace
    counts: np.ndarray

    def confusions(self):
        return self.counts


def segmented(random, seed, chance, scenes=8, classes=4):
    """A run that names each point rightly with a chance that differs by scene."""
    counts = np.zeros((scenes, classes, classes), int)
    for scene, at in enumerate(np.clip(chance, 0, 1)):
        labels = random.integers(0, classes, 300)
        wrong = random.random(300) > at
        np.add.at(counts[scene], (labels, np.where(wrong, (labels + 1) % classes, labels)), 1)
    return Segmented(SimpleNamespace(seed=seed), counts)


def test_a_gain_is_that_of_the_whole_counts_and_is_found(chapter):
    random = np.random.default_rng(0)
    ours = [segmented(random, seed, np.full(8, 0.8)) for seed in (0, 1, 2)]
    scratch = [segmented(random, seed, np.full(8, 0.6)) for seed in (2, 1, 7)]
    gap, pairs, scenes = chapter.gain_of(ours, scratch)
    whole = [[metrics.mean_iou(r.counts.sum(0)) for r in side[:2]] for side in (ours[1:], scratch)]
    assert gap.value == pytest.approx(np.mean(whole[0]) - np.mean(whole[1]))
    assert (pairs, scenes) == (2, 8) and gap.low > 0


def test_scenes_that_differ_widen_the_interval_although_all_seeds_agree(chapter):
    """Promise: every seed is better, and yet nothing is said where it hangs on a single scene."""
    random = np.random.default_rng(0)
    helped, plain = np.full(8, 0.6), np.full(8, 0.6)
    helped[0] = 1.0
    ours = [segmented(random, seed, helped) for seed in (0, 1, 2)]
    scratch = [segmented(random, seed, plain) for seed in (0, 1, 2)]
    gap, _, _ = chapter.gain_of(ours, scratch)
    assert gap.value > 0.03 and gap.low < 0.01


def test_equal_networks_are_told_apart_no_more_often_than_stated(chapter):
    random, wrong, trials = np.random.default_rng(1), 0, 40
    chapter.DRAWS = 200
    for _ in range(trials):
        scenes = random.normal(0.6, 0.1, 8)
        sides = [[segmented(random, seed, scenes + random.normal(0, 0.03) +
                            random.normal(0, 0.03, 8)) for seed in (0, 1)] for _ in range(2)]
        gap, _, _ = chapter.gain_of(*sides)
        wrong += gap.low > 0 or gap.high < 0
    assert wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_sentences_name_both_networks_and_the_absent_classes(rooms, chapter):
    _, results = rooms
    text = " ".join(chapter.sentences(results))
    assert "unet:efficientnet_lite0, imagenet1k" in text and "one pair of runs cannot" in text
    assert "Without a point in the test scenes: beam, column" in text
    assert chapter.sentences(results[:1]) == []


def test_tables_of_no_runs_have_no_rows_and_do_not_fail(chapter):
    """Promise: a profile without segmentation still has its chapter."""
    for make in (chapter.scene_table, chapter.scene_settings, chapter.scene_summary):
        assert make([]).data.empty
    assert chapter.by_either_rule([]).empty and chapter.class_table([]).empty
    assert chapter.scene_runs([]).empty
    chapter.class_bars(chapter.class_table([]))
    assert "ran no network" in turning.clouds_html(*chapter.shown_scene([], "s3dis"))
    assert chapter.sentences([]) == []


def test_the_clouds_are_truth_scratch_and_fip_of_one_scene(rooms, chapter):
    _, results = rooms
    clouds, names, title = chapter.shown_scene(results, "s3dis")
    assert list(clouds) == ["truth", "scratch", "FIP-ALL"] and "Area_5" in title
    kept = results[1].scenes()["Area_5/office_1"]
    assert np.array_equal(clouds["FIP-ALL"][1], kept["predictions"])
    assert np.array_equal(clouds["truth"][1], kept["labels"])
    drawn = turning.clouds_html(clouds, names, title)
    assert drawn.count('"mode":"markers"') == 3 and "Plotly.newPlot" in drawn
    assert "cdn" not in drawn.lower() and "plotly_relayout" in drawn
    for name in ("wall", "chair", "not counted"):
        assert f"</span>{name}</span>" in drawn
    assert chapter.shown_scene(results, "semantic_kitti")[0] == {}


def test_texts_in_a_picture_are_escaped():
    evil = "<script>alert(1)</script>"
    cloud = np.zeros((3, 3), np.float32), np.array([0, 1, -1])
    drawn = turning.clouds_html({evil: cloud}, (evil, "b"), evil)
    assert evil not in drawn and "&lt;script&gt;" in drawn


def test_the_bars_show_the_mean_of_the_seeds(chapter):
    rows = [
        {"scenes": "s", "model": "m", "weights": w, "seed": seed, "method": method, "class": name,
         "iou": value, "points": 5}
        for w, method in (("random", "scratch"), ("imagenet1k", "FIP-ALL"))
        for seed in (0, 1)
        for name, value in (("wall", 0.2 + 0.1 * seed), ("beam", np.nan))
    ]  # fmt: skip
    (axis,) = chapter.class_bars(pd.DataFrame(rows)).axes
    assert [bar.get_height() for bar in axis.patches if bar.get_height()] == pytest.approx([25, 25])
    assert [text.get_text() for text in axis.get_xticklabels()] == ["wall"]


def test_there_is_a_colour_for_every_class():
    assert len(set(turning.PALETTE)) == len(turning.PALETTE) >= 19
    assert turning.UNCOUNTED not in turning.PALETTE


def test_the_comparison_is_drawn_as_html(rooms, chapter):
    _, results = rooms
    runs = chapter.scene_runs(results)
    drawn = comparison.versus_paper("table2", runs, "tiny", stand_in=chapter.STAND_INS)
    assert "hrnetv2_w48" in drawn.replace("<wbr>", "")
    ours = round(100 * metrics.mean_iou(results[0].confusion().to_numpy()), 2)
    assert f">{ours:g}<" in drawn or f"{ours:.2f}" in drawn  # 47.80 is written as 47.8
