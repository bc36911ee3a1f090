"""The modality gap: literal loops, any M, invariances, the bootstrap, the maps into a common space."""

import sys
import types

import numpy as np
import pytest
import torch

from decalign_core.lab.gap import MEASURES, bootstrap_gap, mapped, modality_gap, principal_maps, random_maps, umap_plane


def clouds(count=3, samples=20, width=5, shift=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    return {
        f"modality{m}": common + m * shift + torch.randn(samples, width, generator=generator, dtype=torch.float64)
        for m in range(count)
    }


def literal(x, y):
    """The definitions of the module, one loop a measure."""
    x, y = x.double().numpy(), y.double().numpy()
    samples = len(x)
    mean_x, mean_y = sum(x) / samples, sum(y) / samples
    centroid = np.sqrt(sum((a - b) ** 2 for a, b in zip(mean_x, mean_y, strict=True)))
    paired = sum(np.linalg.norm(x[n] - y[n]) for n in range(samples)) / samples
    spread_x = sum(np.linalg.norm(row - mean_x) ** 2 for row in x) / samples
    spread_y = sum(np.linalg.norm(row - mean_y) ** 2 for row in y) / samples
    strangers = [np.linalg.norm(x[n] - y[k]) for n in range(samples) for k in range(samples) if n != k]
    return {
        "centroid": centroid,
        "paired": paired,
        "normalised": centroid / np.sqrt((spread_x + spread_y) / 2),
        "consistency": centroid / paired,
        "matching": paired / (sum(strangers) / len(strangers)),
    }


@pytest.mark.parametrize("count", [2, 3, 4])
def test_measures_equal_literal_loops(count):
    points = clouds(count)
    gap = modality_gap(points)
    assert len(gap.pairs) == count * (count - 1) // 2
    for index, (one, other) in enumerate(gap.pairs):
        for name, wanted in literal(points[one], points[other]).items():
            assert getattr(gap, name)[index].item() == pytest.approx(wanted, abs=1e-12), name


def test_toy_by_hand():
    # centres coincide, yet no two partners meet
    gap = modality_gap({"a": torch.tensor([[2.0], [5.0]]), "b": torch.tensor([[4.0], [3.0]])})
    assert [getattr(gap, name).item() for name in MEASURES] == [0, 2, 0, 0, 2]


def test_invariances():
    points = clouds()
    base = modality_gap(points)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    moved = modality_gap({name: values @ turn + 3 for name, values in points.items()})
    scaled = modality_gap({name: 10 * values for name, values in points.items()})
    for name in MEASURES:
        torch.testing.assert_close(getattr(moved, name), getattr(base, name))
        factor = 10 if name in ("centroid", "paired") else 1
        torch.testing.assert_close(getattr(scaled, name), factor * getattr(base, name))


def test_centroid_never_exceeds_paired():
    gap = modality_gap(clouds(4, shift=0.1))
    assert (gap.centroid <= gap.paired).all()
    assert ((gap.consistency >= 0) & (gap.consistency <= 1)).all()


def test_a_pure_shift_is_consistent_and_matched():
    x = clouds()["modality0"]
    gap = modality_gap({"a": x, "b": x + 2.0})
    assert gap.consistency.item() == pytest.approx(1)
    assert gap.centroid.item() == pytest.approx(2 * 5**0.5)
    same = modality_gap({"a": x, "b": x.clone()})
    assert [getattr(same, name).item() for name in MEASURES] == [0, 0, 0, 0, 0]


def test_tighter_clouds_have_a_larger_normalised_gap():
    points = clouds()
    tight = {name: values.mean(dim=0) + 0.5 * (values - values.mean(dim=0)) for name, values in points.items()}
    before, after = modality_gap(points), modality_gap(tight)
    torch.testing.assert_close(after.centroid, before.centroid)
    torch.testing.assert_close(after.normalised, 2 * before.normalised)


def test_matching_is_one_for_shuffled_partners():
    points = clouds(2, samples=400, shift=0.0)
    assert modality_gap(points).matching.item() < 0.9
    shuffled = {**points, "modality1": points["modality1"][torch.randperm(400)]}
    assert modality_gap(shuffled).matching.item() == pytest.approx(1, abs=0.05)


def test_absent_samples_are_left_out_of_their_pairs():
    points, kept = clouds(3), torch.arange(20) % 4 != 0
    present = {name: torch.ones(20, dtype=torch.bool) for name in points} | {"modality1": kept}
    spoilt = {**points, "modality1": points["modality1"].where(kept[:, None], 1e6)}
    gap = modality_gap(spoilt, present=present)
    without = modality_gap({name: values[kept] for name, values in points.items()})
    for name in MEASURES:
        torch.testing.assert_close(getattr(gap, name)[0], getattr(without, name)[0])
        torch.testing.assert_close(getattr(gap, name)[1], getattr(modality_gap(points), name)[1])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"a": torch.zeros(4, 2)}, "at least two"),
        ({"a": torch.zeros(4, 2), "b": torch.zeros(4, 3)}, "one shape"),
        ({"a": torch.zeros(4), "b": torch.zeros(4)}, "(N, d)"),
        ({"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}, "two samples"),
    ],
)
def test_errors_name_what_came(points, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        modality_gap(points)


def test_no_common_sample_is_an_error():
    mask = torch.tensor([True, True, False, False])
    points = {"a": torch.randn(4, 2), "b": torch.randn(4, 2)}
    with pytest.raises(ValueError, match="'a' and 'b', got 0"):
        modality_gap(points, present={"a": mask, "b": ~mask})


def test_bootstrap_equals_a_loop_over_resamples():
    points, resamples = clouds(2, samples=12), 30
    low, high = bootstrap_gap(points, resamples=resamples, seed=3, level=0.9)
    drawn = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=resamples)
    values = []
    for counts in drawn:
        rows = torch.from_numpy(np.repeat(np.arange(12), counts))
        values.append(literal(*(cloud[rows] for cloud in points.values()))["normalised"])
    assert low.normalised.item() == pytest.approx(np.quantile(values, 0.05))
    assert high.normalised.item() == pytest.approx(np.quantile(values, 0.95))


def test_bootstrap_brackets_the_estimate_and_repeats():
    points = clouds(3, samples=60)
    low, high = bootstrap_gap(points, resamples=200)
    gap = modality_gap(points)
    for name in MEASURES:
        assert (getattr(low, name) <= getattr(gap, name)).all()
        assert (getattr(gap, name) <= getattr(high, name)).all()
    again, _ = bootstrap_gap(points, resamples=200)
    assert torch.equal(low.paired, again.paired)


def test_groups_widen_the_interval():
    rng = torch.Generator().manual_seed(0)
    shift = torch.randn(6, 1, 4, generator=rng).expand(6, 20, 4).reshape(120, 4)  # one a group
    points = {"a": torch.randn(120, 4, generator=rng) + 1 + shift, "b": torch.randn(120, 4, generator=rng)}
    groups = [f"video{row // 20}" for row in range(120)]
    width = [
        high.centroid - low.centroid for low, high in (bootstrap_gap(points), bootstrap_gap(points, groups=groups))
    ]
    assert width[1] > 1.5 * width[0]
    with pytest.raises(ValueError, match="120 names"):
        bootstrap_gap(points, groups=groups[:-1])


def test_random_maps_keep_lengths_on_average():
    points = {"a": torch.randn(50, 30), "b": torch.randn(50, 7)}
    ratios = []
    for seed in range(200):
        maps = random_maps({"a": 30, "b": 7}, 16, seed=seed)
        ratios.append(torch.stack([mapped(points, maps)[m].square().sum() / points[m].square().sum() for m in points]))
    torch.testing.assert_close(torch.stack(ratios).mean(dim=0), torch.ones(2, dtype=torch.float64), atol=0.05, rtol=0)
    assert torch.equal(random_maps({"a": 30}, 16)["a"], random_maps({"a": 30}, 16)["a"])


def test_principal_maps_keep_what_they_can():
    points = {name: values + 2 for name, values in clouds(2, width=5).items()}
    maps = principal_maps(points, 3)
    for name, matrix in maps.items():
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(3, dtype=torch.float64))
        coordinates = points[name] @ matrix
        assert (coordinates.mean(dim=0) >= 0).all()
        singular = torch.linalg.svdvals(points[name])[:3]
        torch.testing.assert_close(coordinates.norm(dim=0), singular)
    with pytest.raises(ValueError, match="at most 5"):
        principal_maps(points, 6)


def test_table_has_a_row_a_pair():
    table = modality_gap(clouds(3)).table()
    assert list(table.columns) == ["pair", *MEASURES]
    assert list(table["pair"])[0] == "modality0 – modality1"


def test_umap_gets_all_rows_and_their_exact_neighbours(monkeypatch):
    seen, threads = {}, torch.get_num_threads()

    class UMAP:
        def __init__(self, **options):
            seen.update(options)

        def fit_transform(self, rows):
            seen["rows"] = rows
            torch.set_num_threads(threads + 1)
            return rows[:, :2]

    module = types.ModuleType("umap")
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    points = clouds(3)
    plane = umap_plane(points, neighbours=4, seed=7)
    assert torch.get_num_threads() == threads
    assert {name: tuple(values.shape) for name, values in plane.items()} == dict.fromkeys(points, (20, 2))
    torch.testing.assert_close(plane["modality2"], points["modality2"][:, :2].float())
    assert (seen["random_state"], seen["n_jobs"], seen["n_neighbors"]) == (7, 1, 4)
    nearest, distances, _ = seen["precomputed_knn"]
    assert (nearest[:, 0] == np.arange(60)).all()
    wanted = np.linalg.norm(seen["rows"][5] - seen["rows"][nearest[5]], axis=1)
    np.testing.assert_allclose(distances[5], wanted, rtol=1e-4, atol=1e-6)
