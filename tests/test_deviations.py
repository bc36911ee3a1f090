"""What entries of the deviation ledger say that no other test shows: mostly the paper's own tables, read as numbers."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from decalign_core.lab import training
from decalign_core.lab.presets import preset
from decalign_core.lab.results import published
from decalign_core.objective import ObjectiveConfig, task_loss


def pull(error, task):
    """The gradient of the loss of one sample at a given error."""
    prediction = torch.tensor([[float(error)]], dtype=torch.float64, requires_grad=True)
    task_loss(prediction, torch.zeros(1, dtype=torch.float64), ObjectiveConfig(task=task)).backward()
    return prediction.grad.item()


def test_the_default_task_loss_bounds_the_pull_of_one_sample():
    assert ObjectiveConfig().task == "smooth_l1"
    assert [pull(error, "mse") for error in (0.5, 2, 6)] == [1, 4, 12]
    assert [pull(error, "smooth_l1") for error in (0.5, 2, 6)] == [0.5, 1, 1]


def test_presets_keep_the_papers_optimiser():
    for name in ("official", "paper"):
        settings = preset(name, "mosi").training
        assert (settings.optimiser, settings.schedule, settings.average) == ("adam", "plateau", 0)
    own = preset("default", "mosi")
    assert (own.training.optimiser, own.training.schedule, own.model.layers) == ("adamw", "cosine", 1)


def test_presets_keep_full_precision(monkeypatch):
    """Wherever they run; what "auto" takes depends on the device, an old GPU that only emulates bf16 being none."""
    assert {preset(name, "mosi").training.precision for name in ("official", "paper")} == {"float32"}
    assert preset("default", "mosi").training.precision == "auto"
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: enabled)
    for newer in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, newer=newer: newer)
        enabled = {kind: training._autocast(torch.device(kind), "auto") for kind in ("cpu", "cuda")}
        assert enabled == {"cpu": False, "cuda": newer}
        assert not training._autocast(torch.device("cuda"), "float32")


def test_input_dropout_of_the_public_mosi():
    assert preset("default", "mosi_public").model.input_dropout == {"text": 0.5, "audio": 0.9, "vision": 0.9}
    frozen = preset("default", "mosi_public", "standard", text_encoder="some/encoder").model.input_dropout
    assert frozen == {"text": 0.5, "audio": 0.8, "vision": 0.8}
    assert preset("default", "synthetic").model.input_dropout == 0
    assert preset("official", "mosi").model.input_dropout == {"text": 0.0}


def test_a_mean_of_batch_means_depends_on_the_batches():
    errors = np.array([0.0, 0.0, 0.0, 0.0, 3.0])  # batches of two: the last sample is a batch of its own
    of_batches = [np.mean([part.mean() for part in np.split(order, [2, 4])]) for order in (errors, errors[::-1])]
    assert of_batches == pytest.approx([1.0, 0.5])
    assert errors.mean() == pytest.approx(0.6)


def test_three_epochs_choose_where_the_official_code_takes_one():
    windows = [preset(name, "mosi").training.selection_window for name in ("default", "official", "paper")]
    assert windows == [3, 1, 1]


def test_table_3_without_decoupling():
    rows = published("table3").set_index(["mfd", "hete", "homo"])["mosei_mae"]
    assert rows[0, 0, 0] == 0.624 < rows[1, 0, 0] == 0.632
    assert not [name for name in published("table3").columns if "acc" in name]


def test_table_4_beside_table_3():
    third = published("table3").set_index(["mfd", "hete", "homo"])["mosei_mae"]
    fourth = published("table4").set_index(["proto_ot", "ct", "sem", "mmd"])["mosei_mae"]
    assert fourth[0, 1, 1, 1] == 0.624 and fourth[1, 0, 1, 1] == 0.619
    assert min(fourth[0, 1, 1, 1], fourth[1, 0, 1, 1]) > third[1, 0, 1] == 0.588
    assert fourth.idxmax() == (0, 1, 1, 1)


def test_counts_of_figure_4():
    counts = published("figure4")
    assert set(counts.groupby("model")["count"].sum()) == {678}
    right = counts.query("truth == pred").groupby("model")["count"].sum()
    printed = published("table1").query("dataset == 'mosi'").set_index("model")["acc7"][right.index]
    difference = (100 * right / 686 - printed).abs()
    assert difference["DecAlign"] < 0.1
    assert (difference.drop("DecAlign") > 0.5).all()


def test_extremes_of_figure_7():
    grid = published("figure7").query("dataset == 'mosi'").set_index(["alpha", "beta"])["f1"]
    assert grid.idxmax() == (0.05, 0.05) and grid.idxmin() == (0.5, 0.5)
    assert (grid.max(), grid.min()) == (85.8, 38.2)
    rows = published("figure4").query("model == 'DecAlign'").groupby("truth")["count"].sum()
    truth = np.repeat(rows.index.to_numpy(), rows.to_numpy())
    truth = truth[truth != 0] > 0
    constant = [100 * f1_score(truth, np.full(len(truth), answer), average="weighted") for answer in (False, True)]
    assert max(constant) < 45


def test_table_2_has_no_binary_accuracy():
    assert [name for name in published("table2").columns if name.startswith("sims")] == ["sims_mae", "sims_f1"]


def test_second_best_of_table_2():
    table = published("table2").set_index("model").drop("DecAlign")
    assert table["sims_mae"].idxmin() == table["sims_f1"].idxmax() == "CGGM"
    assert table.loc["CGGM", ["sims_mae", "sims_f1"]].tolist() == [0.417, 80.12]


def test_cenet_in_two_reports():
    paper, mmsa = (
        published(name).query("dataset == 'mosei'").set_index("model")[["mae", "corr"]]
        for name in ("table1", "mmsa_results")
    )
    assert paper.loc["CENet"].tolist() == [0.588, 0.738] and paper.loc["DecAlign"].tolist() == [0.543, 0.768]
    assert mmsa.loc["CENet"].tolist() == pytest.approx([0.526, 0.778], abs=6e-4)  # it has a digit more
    assert mmsa.loc["CENet", "mae"] < paper.loc["DecAlign", "mae"]
    assert mmsa.loc["CENet", "corr"] > paper.loc["DecAlign", "corr"]
