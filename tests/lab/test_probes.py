"""Linear probes against closed forms: what is planted is found, what is not is not, and no held-out sample leaks in."""

import numpy as np
import pandas as pd
import pytest
import torch

from decalign_core.data.synthetic import SyntheticConfig, generate
from decalign_core.lab.probes import cross_validated_r2, held_out_r2, readout, separation, variance_share
from decalign_core.nn.encoders import masked_mean


def linear_data(samples=400, width=6, factors=2, noise=0.0):
    """Factors that are linear in the features, plus noise."""
    features = torch.randn(samples, width, dtype=torch.float64)
    planted = features @ torch.randn(width, factors, dtype=torch.float64)
    return features, planted + noise * planted.std(dim=0) * torch.randn_like(planted)


def halves(*tensors):
    return [half for part in (slice(0, None, 2), slice(1, None, 2)) for half in (x[part] for x in tensors)]


def test_a_linear_factor_is_read_completely_and_noise_not_at_all():
    x, y = linear_data()
    assert (held_out_r2(*halves(x, y)) > 0.9999).all()
    assert (cross_validated_r2(x, y) > 0.9999).all()
    noise = torch.randn_like(y)
    assert (held_out_r2(*halves(x, noise)).abs() < 0.1).all()
    assert (cross_validated_r2(x, noise) < 0.05).all()


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_r2_is_the_share_of_variance_that_is_not_noise(noise):
    x, y = linear_data(samples=4000, noise=noise)
    wanted = 1 / (1 + noise**2)
    assert held_out_r2(*halves(x, y)).mean() == pytest.approx(wanted, abs=0.05)
    assert cross_validated_r2(x, y).mean() == pytest.approx(wanted, abs=0.05)


def test_r2_is_the_literal_formula_of_a_least_squares_fit():
    """With many samples and hardly any noise the ridge is as weak as it can be: ordinary least squares."""
    x, y = linear_data(samples=1000, noise=0.05)
    a, b, held_a, held_b = halves(x, y)
    ones = torch.ones(len(a), 1, dtype=a.dtype)
    fit = torch.linalg.lstsq(torch.cat([a, ones], dim=1), b).solution
    residual = held_b - torch.cat([held_a, ones], dim=1) @ fit
    wanted = 1 - residual.square().sum(0) / (held_b - held_b.mean(0)).square().sum(0)
    assert (held_out_r2(a, b, held_a, held_b) - wanted).abs().max() < 1e-4


def test_one_value_a_factor_also_with_a_single_factor():
    x, y = linear_data(factors=1)
    assert held_out_r2(*halves(x, y)).shape == (1,)
    assert cross_validated_r2(x, y).shape == (1,)
    mixed = torch.cat([y, torch.randn_like(y)], dim=1)
    readable, noise = held_out_r2(*halves(x, mixed))
    assert readable > 0.999 > 0.2 > noise


def test_more_columns_than_samples_do_not_make_noise_readable():
    x, y = torch.randn(60, 200), torch.randn(60, 3)
    assert held_out_r2(*halves(x, y)).max() < 0.2
    assert cross_validated_r2(x, y).max() < 0.2


def test_scale_and_shift_of_a_column_and_invertible_maps_change_nothing():
    x, y = linear_data(noise=0.5)
    wanted = held_out_r2(*halves(x, y))
    moved = 1e3 * x * torch.arange(1, 7) + 5
    assert (held_out_r2(*halves(moved, y)) - wanted).abs().max() < 1e-6
    turned = x @ torch.randn(6, 6, dtype=x.dtype)
    assert (held_out_r2(*halves(turned, y)) - wanted).abs().max() < 0.02


def test_a_constant_column_and_gradients_do_not_matter():
    x, y = linear_data()
    x = torch.cat([x, torch.full((len(x), 1), 3.0)], dim=1).requires_grad_()
    assert (held_out_r2(*halves(x, y)) > 0.9999).all()


def test_held_out_samples_are_only_scored():
    """Below 0 where the relation is another one there: nothing was fitted on them."""
    x, y = linear_data()
    a, b, held_a, held_b = halves(x, y)
    assert (held_out_r2(a, b, held_a, -held_b) < -0.5).all()
    one_by_one = [held_out_r2(a, b, held_a, held_b + shift) for shift in (0.0, 10.0)]
    assert (one_by_one[1] < one_by_one[0]).all()


def test_folds_are_seeded():
    x, y = linear_data(noise=1.0)
    assert torch.equal(cross_validated_r2(x, y, seed=3), cross_validated_r2(x, y, seed=3))
    assert not torch.equal(cross_validated_r2(x, y, seed=3), cross_validated_r2(x, y, seed=4))


def test_variance_share_weighs_columns_by_their_variance():
    """Nine tenths of the variance lie in a column that the factor explains, the rest in noise."""
    factor = torch.randn(4000, 1, dtype=torch.float64)
    features = torch.cat([3 * factor, torch.randn_like(factor)], dim=1)
    x, y, held_x, held_y = halves(features, factor)
    assert variance_share(x, y, held_x, held_y) == pytest.approx(0.9, abs=0.02)
    assert variance_share(x[:, 1:], y, held_x[:, 1:], held_y) == pytest.approx(0.0, abs=0.02)


def planted_parts(samples=500):
    """Modalities "one" and "two" whose parts hold exactly their own factor."""
    truth = {"common": torch.randn(samples, 3), "unique/one": torch.randn(samples, 2)}
    truth |= {"unique/two": torch.randn(samples, 2), "class": torch.zeros(samples)}
    common = {name: truth["common"] @ torch.randn(3, 3, generator=generator(7)) for name in ("one", "two")}
    return {"unique": {name: truth[f"unique/{name}"] for name in ("one", "two")}, "common": common}, truth


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_readout_finds_every_factor_where_it_is_and_only_there():
    (parts, truth), (held_parts, held_truth) = planted_parts(), planted_parts()
    table = readout(parts, truth, held_parts, held_truth)
    assert list(table.columns) == ["part", "modality", "factor", "r2"]
    assert len(table) == 2 * 2 * 3
    holds = table.apply(lambda row: (row["part"], row["factor"]) in {("unique", "own"), ("common", "common")}, axis=1)
    assert (table.r2[holds] > 0.999).all()
    assert (table.r2[~holds].abs() < 0.1).all()
    assert separation(table) == pytest.approx(1.0, abs=0.05)


def test_separation_of_swapped_and_of_equal_parts():
    (parts, truth), (held_parts, held_truth) = planted_parts(), planted_parts()
    table = readout(parts, truth, held_parts, held_truth)
    swapped = table.assign(part=table.part.map({"unique": "common", "common": "unique"}))
    assert separation(swapped) == pytest.approx(-separation(table))
    same = [{"unique": x["unique"], "common": x["unique"]} for x in (parts, held_parts)]
    assert separation(readout(same[0], truth, same[1], held_truth)) == 0


def test_readout_of_the_synthetic_data():
    """Raw averages show the common and the own factor, and nothing of the other modalities' ones."""
    splits = generate(SyntheticConfig(samples=(400, 1, 400)))
    pooled = {
        split: {"raw": {name: masked_mean(x, batch.masks[name]) for name, x in batch.features.items()}}
        for split, batch in splits.items()
    }
    table = readout(pooled["train"], splits.truth["train"], pooled["test"], splits.truth["test"])
    r2 = table.groupby("factor").r2.mean()
    assert isinstance(table, pd.DataFrame)
    assert r2["common"] > 0.4
    assert r2["own"] > 0.4
    assert abs(r2["other"]) < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: held_out_r2(x[:, :, None], y, x, y), "features: wanted a matrix"),
        (lambda x, y: held_out_r2(x, y[:, 0], x, y), "factors: wanted a matrix"),
        (lambda x, y: held_out_r2(x, y[:-1], x, y), "factors: wanted 10 samples"),
        (lambda x, y: held_out_r2(x, y, x[:, :-1], y), "wanted .* columns"),
        (lambda x, y: cross_validated_r2(x, y, folds=1), "folds: wanted 2 to 10"),
        (lambda x, y: cross_validated_r2(x, y, folds=11), "folds: wanted 2 to 10"),
    ],
)
def test_errors_name_the_argument(call, message):
    x, y = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 10, 3)))
    with pytest.raises(ValueError, match=message):
        call(x, y)
