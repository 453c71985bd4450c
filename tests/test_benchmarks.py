"""The suite measures what it says, the goals judge right, and the page shows the tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks import __main__ as suite
from benchmarks import goals as speed
from benchmarks import layers, peers, steps, timing
from benchmarks.cases import Scale
from benchmarks.dense import DenseConv
from benchmarks.how_fast import RESULTS, how_fast
from benchmarks.inputs import VoxelSet, size_for, surface
from i2p_lib.sparse import SparseTensor, voxelize

CPU = torch.device("cpu")
HOSTILE = '<script>alert(1)</script> & ``` {raw} $x$ | "quoted"'


@pytest.fixture(scope="module")
def ball() -> VoxelSet:
    """A closed surface of about 200 voxels."""
    return VoxelSet("ball", voxelize([surface(200)], size_for(200)).sites)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """All parts, with one kind of layer on one object, and the smallest network on two."""
    scale = Scale(voxels=600, batch=2, budget=0.01, networks=("efficientnet_lite0",))
    folder = tmp_path_factory.mktemp("results")
    kinds = tuple(replace(kind, channels=(16,), sets=(0,)) for kind in layers.KINDS[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "KINDS", kinds)
        patch.setattr(steps, "ENGINES", ("spconv",))  # ocnn takes seconds
        suite.measure(list(suite.PARTS), folder, "tiny", CPU, scale)
    return speed.read_results(folder)["tiny"]


def test_every_part_says_what_was_measured_with_what(measured) -> None:
    assert set(measured) == set(speed.PARTS) == set(suite.PARTS)
    for table in measured.values():
        columns = {"cpu", "gpu", "cores", "threads", "vector", "torch", "python", "numba", "peers",
                   "source", "date", "command"}
        assert columns <= set(table.columns)
        assert table["source"].str.fullmatch("[0-9a-f]{12}").all()
    engines = set(measured["layers"]["engine"])
    assert {speed.OURS, "spconv", "ocnn", "dense"} <= engines
    timed = measured["layers"].dropna(subset=["both_s"])
    assert (timed["both_s"] > timed["forward_s"]).all() and (timed["forward_s"] > 0).all()
    rest = measured["layers"][measured["layers"]["both_s"].isna()]
    assert rest["note"].notna().all(), "what was not timed says why"


def test_a_step_costs_at_least_what_it_saves_and_its_stages_are_all_of_it(measured) -> None:
    ours = measured["steps"].set_index("engine").loc[speed.OURS]
    assert 0 < ours["saved_bytes"] <= ours["peak_bytes"]
    assert ours["times_ours"] == 1 and ours["step_s"] > 0
    stages = measured["pipeline"].query("stage != 'epoch'")
    assert list(stages["stage"]) == [*speed.INPUT_STAGES, "step"]
    assert stages["share"].sum() == pytest.approx(1, abs=0.1)  # medians of each stage
    assert (measured["pipeline"].query("stage == 'epoch'")["seconds"] > 0).all()


@pytest.mark.parametrize("kind", layers.KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("peer", [*peers.ENGINES, "dense"])
def test_a_peer_computes_what_our_layer_does(kind: layers.Kind, peer: str, ball: VoxelSet) -> None:
    if peer != "dense":
        try:
            peers.must_run(peer, CPU)
        except peers.Unsupported as reason:
            pytest.skip(f"{peer} {reason}")
    layer = kind.layer(4)
    sites = ball.sites.downsample(2) if kind.transposed else ball.sites
    outputs = ball.sites if kind.transposed else ball.sites.downsample(kind.stride)
    make = torch.Generator().manual_seed(1)
    x = SparseTensor(torch.randn(len(sites), 4, generator=make), sites)
    grad = torch.randn(len(outputs), 4, generator=make)
    ours = layers.Turn(layer, x, grad, CPU)
    try:
        if peer == "dense":
            other = layers.DenseTurn(DenseConv(layer, x, 1e12), x, grad, CPU)
        else:
            other = layers.Turn(peers.PeerConv(layer, peer), x, grad, CPU)
    except peers.Unsupported:
        assert (kind.depthwise, peer) == (True, "spconv")
        return
    for mine, theirs in zip(ours.outcome(), other.outcome(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)


def test_an_engine_that_computes_something_else_is_not_timed(ball: VoxelSet) -> None:
    layer, other = layers.KINDS[0].layer(4), layers.KINDS[0].layer(4)
    nn.init.ones_(other.weight)
    x = SparseTensor(torch.randn(len(ball), 4), ball.sites)
    turns = {name: layers.Turn(net, x, x.feats.clone(), CPU)
             for name, net in ((speed.OURS, layer), ("wrong", other))}
    with pytest.raises(ValueError, match="wrong: outputs differ from ours"):
        layers._must_be_equal(turns)


def test_contenders_take_turns_and_slow_ones_are_called_once() -> None:
    calls: list[str] = []

    def contender(name: str, seconds: float):
        def call() -> list[float]:
            calls.append(name)
            return [seconds, 2 * seconds]
        return call

    seconds = timing.take_turns(
        {"a": contender("a", 1.0), "b": contender("b", 2.0), "slow": contender("slow", 9.0)}, 1.0)
    assert "".join(name[0] for name in calls) == "abs" + "ab" + "ba" + "ab"
    assert seconds["a"].tolist() == [[1, 2]] * 3 and seconds["slow"].tolist() == [[9, 18]]
    assert timing.ratio(seconds["slow"][:, 0], seconds["b"][:, 0]) == 4.5


def test_the_memory_of_a_step_is_what_its_tensors_occupy_at_once() -> None:
    kept = []

    def step() -> None:
        a = torch.ones(1000)
        kept.append(torch.ones(5000))  # as gradients are
        b = a + 1
        del a
        b.mul_(2)

    assert 8000 <= timing.peak_bytes(step, CPU) < 8100  # two tensors, and a few numbers
    net = nn.Linear(8, 8, bias=False)
    x = torch.ones(4, 8, requires_grad=True)
    assert timing.saved_bytes(lambda: net(x).exp(), net) == 2 * 4 * 4 * 8  # x and exp's result


def layer_rows(**changes) -> pd.DataFrame:
    """Rows of one layer of ours and of two peers; `changes` replaces columns of all."""
    base = {"layer": "submanifold 3", "channels": 64, "voxels": 5000, "outputs": 5000,
            "pairs": 50_000, "forward_s": 0.1, "both_s": 0.3, "in_gemms": 1.0, "in_copies": 1.0}
    return pd.DataFrame([
        base | {"engine": engine, "times_ours": times, "times_ours_forward": times} | changes
        for engine, times in ((speed.OURS, 1.0), ("spconv", 1.2), ("ocnn", 3.0))])  # fmt: skip


def verdict(tables: dict[str, pd.DataFrame], words: str) -> speed.Verdict:
    (found,) = [v for v in speed.evaluate(tables) if words in v.goal.name]
    return found


def test_without_tables_no_goal_is_judged() -> None:
    assert {v.met for v in speed.evaluate({})} == {None}
    assert speed.as_text(speed.evaluate({})).count("not measured") == len(speed.GOALS)


def test_the_fastest_peer_on_the_hardest_layer_decides() -> None:
    easy, hard = layer_rows(), layer_rows(channels=256)
    words = "every layer, forward + backward"
    assert verdict({"layers": easy}, words).ratio == pytest.approx(1.2)
    hard.loc[hard["engine"] == "ocnn", "times_ours"] = 0.9
    found = verdict({"layers": pd.concat([easy, hard], ignore_index=True)}, words)
    assert found.met is False and found.ratio == pytest.approx(0.9)
    assert "256 channels, 5,000 voxels, ocnn; level or ahead in 1 of 2" in found.reading.where
    small = hard.assign(voxels=1000)
    assert verdict({"layers": pd.concat([easy, small], ignore_index=True)}, words).met


def test_the_share_of_the_gemm_peak_counts_existing_pairs() -> None:
    work = 6 * 50_000 * 64**2 / (2 * 1024**3)  # in products
    table = layer_rows(in_gemms=2 * work)
    found = verdict({"layers": table}, "at 64 channels")
    assert found.reading.value == pytest.approx(0.5) and found.met is False
    assert found.ratio == pytest.approx(0.5 / 0.65)
    assert verdict({"layers": table}, "at 256 channels").met is None


def test_depthwise_layers_are_judged_by_their_traffic() -> None:
    copies = 7 * 5000 * 64 * 4 / (2 * 4 * 2**24)  # the traffic in copies
    table = layer_rows(layer="depthwise 5", in_copies=4 * copies)
    found = verdict({"layers": table}, "Depthwise")
    assert found.reading.value == pytest.approx(4) and found.ratio == pytest.approx(0.5)


def test_steps_memory_and_bf16_are_judged_by_their_worst_network() -> None:
    steps = pd.DataFrame([
        {"network": net, "engine": engine, "step_s": times, "times_ours": times,
         "saved_bytes": 100, "peak_bytes": peak}
        for net, peak in (("one", 120), ("two", 200))
        for engine, times in ((speed.OURS, 1.0), (speed.HALF, 0.5), ("spconv", 1.3 * peak / 120))])
    tables = {"steps": steps}
    assert verdict(tables, "1.3 times faster").ratio == pytest.approx(1)
    half = verdict(tables | {"layers": pd.concat([
        layer_rows(), layer_rows(engine=speed.HALF, in_gemms=0.5)], ignore_index=True)}, "bf16")
    assert half.ratio == pytest.approx(2 / 1.6)
    assert half.reading.where == "one; this machine's bf16 matrix products have 0.50 times " \
        "float32's rate"
    memory = verdict(tables, "Memory")
    assert memory.reading == speed.Reading(2.0, "two") and memory.met is False


@pytest.mark.parametrize("power, met", [(1.0, True), (1.5, False)])
def test_the_exponent_of_growth_is_found(power: float, met: bool) -> None:
    voxels = np.array([500, 2000, 20_000, 500_000])
    seconds = 1e-6 * voxels.astype(float) ** power
    seconds[0] = 1  # below the least voxels, where calls dominate
    table = pd.DataFrame({"what": "map", "voxels": voxels, "seconds": seconds})
    found = verdict({"growth": table}, "linear")
    assert found.reading.value == pytest.approx(power) and found.met is met


def test_the_input_is_the_sum_of_its_stages() -> None:
    shares = {"augmentation": 0.02, "voxelisation": 0.03, "maps": 0.15, "step": 0.8}
    table = pd.DataFrame([{"network": "n", "stage": s, "share": v} for s, v in shares.items()])
    found = verdict({"pipeline": table}, "10 %")
    assert found.reading.value == pytest.approx(0.2) and found.ratio == pytest.approx(0.5)


def test_the_page_shows_every_goal_and_figure_of_the_committed_tables(tmp_path: Path) -> None:
    page = how_fast(tmp_path / "figures")
    machines = speed.read_results(RESULTS)
    assert machines, "run: python -m benchmarks --output benchmarks/results"
    for name, tables in machines.items():
        assert set(tables) == set(speed.PARTS), name
        assert all(verdict.met is not None for verdict in speed.evaluate(tables)), name
    assert page.count("i2p-met") + page.count("i2p-missed") == len(speed.GOALS) * len(machines)
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert len(drawn) == 5 * len(machines) and all(f"figures/{name}" in page for name in drawn)


def test_the_same_tables_give_the_same_page(tmp_path: Path) -> None:
    pages = [how_fast(tmp_path / name / "figures") for name in ("a", "b")]
    assert pages[0] == pages[1]
    for path in (tmp_path / "a" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()


def test_hostile_text_is_escaped_and_before_and_after_are_compared(tmp_path: Path) -> None:
    for part, (name, tables) in zip(speed.PARTS, 4 * list(speed.read_results(RESULTS).items()),
                                    strict=False):
        table = tables[part].assign(cpu=HOSTILE, note=HOSTILE)
        table.to_csv(tmp_path / f"{part}-{name}.csv", index=False)
    pd.DataFrame({"state": ["before", "after", "after"], "training_seconds": [300, 60, 40],
                  "source": HOSTILE}).to_csv(tmp_path / f"demo_before_after-{name}.csv")
    page = how_fast(tmp_path / "figures", tmp_path)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "5 min 0 s before and 1 min 40 s after, a ratio of 3.00" in page
    fences = [line for line in page.splitlines() if line.startswith("```")]
    assert all(line == "```" or line.startswith(("```{raw} html", "```{figure} figures/"))
               for line in fences)
    (tmp_path / f"steps-{name}.csv").rename(tmp_path / "steps-a `b`.csv")
    with pytest.raises(ValueError, match="expected letters"):
        how_fast(tmp_path / "figures", tmp_path)
