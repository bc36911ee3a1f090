"""Eq 1, 9, 10, 11, 13: the losses of a representation, against literal loops and the laws that the design states."""

import sys
from itertools import permutations

import numpy as np
import oracles
import pytest
import torch

from decalign_core.alignment.mixture import fit
from decalign_core.objective import (
    ObjectiveConfig,
    contrastive,
    decoupling,
    heterogeneity,
    homogeneity,
    objective,
    task_loss,
)
from decalign_core.types import Batch, Representation

NAMES = ("first", "second", "third", "fourth")
WIDTH = 3
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3}
every_m = pytest.mark.parametrize("count", [2, 3, 4], ids=["M=2", "M=3", "M=4"])
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
both_penalties = pytest.mark.parametrize("penalty", ["signed", "squared"])


def letter(**changes):
    """The paper's letter, solved to the end so that an oracle can be compared."""
    solved = {"components": 3, "epsilon": 5.0, "sinkhorn_iterations": 3000, "sinkhorn_tolerance": 1e-12}
    return ObjectiveConfig.letter(**solved | changes)


def draw(seed, count, sizes=12, width=WIDTH):
    """By modality, skewed samples of unequal location: NumPy arrays (N_m, width)."""
    rng = np.random.default_rng(seed)
    sizes = [sizes] * count if isinstance(sizes, int) else sizes
    return {
        name: rng.gamma(2.0, size=(size, width)) + rng.normal(size=width)
        for name, size in zip(NAMES[:count], sizes, strict=True)
    }


def as_tensors(arrays, dtype=torch.float64):
    return {name: torch.as_tensor(array, dtype=dtype) for name, array in arrays.items()}


def blocks(seed, count, samples=5):
    """Unique and common blocks (B, T_m, d) with T_m unequal, and masks with at least one valid frame."""
    rng = np.random.default_rng(seed)
    lengths = (4, 2, 6, 3)[:count]
    unique, common = (
        {name: rng.normal(size=(samples, length, WIDTH)) for name, length in zip(NAMES, lengths, strict=False)}
        for _ in range(2)
    )
    masks = {
        name: np.arange(length) < rng.integers(1, length + 1, size=(samples, 1))
        for name, length in zip(NAMES, lengths, strict=False)
    }
    return unique, common, masks


# ---------------------------------------------------------------------------------------------------------------- Eq 1


@both_dtypes
@both_penalties
@every_m
def test_decoupling_is_equation_1(count, penalty, dtype):
    unique, common, masks = blocks(0, count)
    u, c, m = as_tensors(unique, dtype), as_tensors(common, dtype), {k: torch.as_tensor(v) for k, v in masks.items()}
    lists = [list(x.values()) for x in (unique, common)]
    for given, array in ((None, None), (m, list(masks.values()))):
        got = decoupling(u, c, masks=given, penalty=penalty)
        assert got.shape == ()
        assert got.item() == pytest.approx(oracles.eq1_decoupling(*lists, array, penalty), abs=TOLERANCE[dtype] / 100)


@every_m
def test_decoupling_has_its_optimum_where_the_penalty_says(count):
    unique = as_tensors(blocks(1, count)[0])
    opposite = {name: -3 * x for name, x in unique.items()}
    assert decoupling(unique, opposite, penalty="signed").item() == pytest.approx(-count, rel=1e-12)
    assert decoupling(unique, unique, penalty="signed").item() == pytest.approx(count, rel=1e-12)
    assert decoupling(unique, opposite, penalty="squared").item() == pytest.approx(count, rel=1e-12)
    swapped = {name: x.clone() for name, x in unique.items()}
    for x in swapped.values():  # orthogonal by construction: (a, b, c) against (-b, a, 0)
        x[..., 0], x[..., 1], x[..., 2] = -x[..., 1].clone(), x[..., 0].clone(), 0
    for penalty in ("signed", "squared"):
        assert decoupling(unique, swapped, penalty=penalty).item() == pytest.approx(0, abs=1e-14)


def test_decoupling_is_squared_by_default_and_within_its_bounds():
    for seed in range(10):
        unique, common, _ = (as_tensors(x) for x in blocks(seed, 3))
        value = decoupling(unique, common)
        assert torch.equal(value, decoupling(unique, common, penalty="squared"))
        assert 0 <= value.item() <= 3
        assert -3 <= decoupling(unique, common, penalty="signed").item() <= 3


@both_penalties
def test_the_penalty_applies_per_sample_before_the_mean(penalty):
    """Cosines +1 and -1: their mean is 0, the mean of their squares 1."""
    unique = {"m": torch.ones(2, 1, 2)}
    common = {"m": torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]]])}
    assert decoupling(unique, common, penalty=penalty).item() == pytest.approx(0.0 if penalty == "signed" else 1.0)


def test_the_cosine_is_of_whole_blocks_not_of_frames():
    """Frame cosines are 1 and -1, the second frame twice as long: (1 - 4) / (1 + 4)."""
    unique = {"m": torch.tensor([[[1.0, 0.0], [2.0, 0.0]]], dtype=torch.float64)}
    common = {"m": torch.tensor([[[1.0, 0.0], [-2.0, 0.0]]], dtype=torch.float64)}
    assert decoupling(unique, common, penalty="signed").item() == pytest.approx(-3 / 5)


@both_penalties
@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_padding_changes_neither_decoupling_nor_its_gradient(garbage, penalty):
    unique, common, masks = blocks(2, 3)
    masks = {name: torch.as_tensor(mask) for name, mask in masks.items()}
    masks["first"][0] = False  # a sample without this modality
    values, gradients = [], []
    for filling in (0.0, garbage):
        parts = []
        for arrays in (unique, common):
            filled = {
                name: torch.as_tensor(x).masked_fill(~masks[name][..., None], filling) for name, x in arrays.items()
            }
            parts.append({name: x.requires_grad_() for name, x in filled.items()})
        value = decoupling(*parts, masks=masks, penalty=penalty)
        leaves = [x for part in parts for x in part.values()]
        values.append(value)
        gradients.append(torch.autograd.grad(value, leaves))
    assert torch.equal(*values)
    assert all(torch.equal(a, b) and torch.isfinite(a).all() for a, b in zip(*gradients, strict=True))
    longer = [
        {name: torch.nn.functional.pad(x.detach(), (0, 0, 0, 5), value=garbage) for name, x in part.items()}
        for part in parts
    ]
    more = {name: torch.nn.functional.pad(mask, (0, 5)) for name, mask in masks.items()}
    assert decoupling(*longer, masks=more, penalty=penalty).item() == pytest.approx(values[0].item(), rel=1e-12)


@both_penalties
def test_a_zero_vector_counts_0_in_the_mean_with_finite_gradient(penalty):
    unique = {"m": torch.ones(4, 2, 3, dtype=torch.float64)}
    unique["m"][0] = 0
    unique["m"].requires_grad_()
    common = {"m": torch.ones(4, 2, 3, dtype=torch.float64)}
    common["m"][:2] = 0  # both zero in sample 0
    common["m"].requires_grad_()
    value = decoupling(unique, common, penalty=penalty)
    assert value.item() == pytest.approx(2 / 4)
    value.backward()
    assert torch.isfinite(unique["m"].grad).all()
    assert torch.isfinite(common["m"].grad).all()


@both_dtypes
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e4, 1e12])
def test_decoupling_ignores_scale(scale, dtype):
    unique, common, _ = (as_tensors(x, dtype) for x in blocks(3, 3))
    expected = decoupling(unique, common, penalty="signed").item()
    scaled = [{name: scale * x for name, x in part.items()} for part in (unique, common)]
    assert decoupling(*scaled, penalty="signed").item() == pytest.approx(expected, rel=1e-4)
    assert decoupling(scaled[0], common, penalty="signed").item() == pytest.approx(expected, rel=1e-4)


@both_penalties
def test_gradient_of_decoupling(penalty):
    unique, common, masks = blocks(4, 2, samples=2)
    masks = {name: torch.as_tensor(mask) for name, mask in masks.items()}
    leaves = [torch.as_tensor(x).requires_grad_() for part in (unique, common) for x in part.values()]

    def through(*leaves):
        parts = [dict(zip(NAMES, leaves[i : i + 2], strict=False)) for i in (0, 2)]
        return decoupling(*parts, masks=masks, penalty=penalty)

    assert torch.autograd.gradcheck(through, leaves)


def test_unknown_penalty_is_an_error():
    unique, common, _ = (as_tensors(x) for x in blocks(5, 2))
    with pytest.raises(ValueError, match="penalty"):
        decoupling(unique, common, penalty="cubed")


# ---------------------------------------------------------------------------------------------------------------- Eq 9


def literal_mixtures(arrays, config, components, starts=None):
    """EM by the oracle, from the package's start (the paper has none) or from the rows that are told; K as told."""
    mixtures = []
    for name, x in arrays.items():
        options = {"covariance": config.covariance, "floor": config.floor}
        start = fit(torch.as_tensor(x), components, steps=0, **options)
        mixture = tuple(part.numpy() for part in (start.weights, start.means, start.covariances))
        if starts:
            mixture = (mixture[0], x[starts[name]], mixture[2])
        for _ in range(config.em_steps):
            mixture = oracles.em_step(x, mixture, **options)
        mixtures.append(mixture)
    return mixtures


def literal_heterogeneity(arrays, config, components=None, starts=None):
    """Equations 2 to 9 by the oracles: transport, prototype and the joint cost."""
    mixtures = literal_mixtures(arrays, config, components or config.components, starts)
    sizes = [len(mixture[0]) for mixture in mixtures]
    cost = oracles.eq5_joint_cost(mixtures, sizes, oracles.eq6_costs)
    epsilon = config.epsilon * (cost.mean() if config.relative_epsilon else 1)
    marginals = [mixture[0] for mixture in mixtures]
    plan, _ = oracles.eq7_plan(cost, marginals, epsilon, iterations=2000)
    assert oracles.eq8_error(plan, marginals) < 1e-9  # the oracle has arrived
    return oracles.eq9_transport(plan, cost), oracles.eq9_prototype(list(arrays.values()), mixtures), cost


@both_dtypes
@every_m
@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_heterogeneity_is_equation_9(covariance, count, dtype):
    config = letter(covariance=covariance, epsilon=10.0, sinkhorn_tolerance=1e-12 if dtype.itemsize == 8 else 1e-6)
    arrays = draw(10, count, 14)
    transport, prototype, _ = literal_heterogeneity(arrays, config)
    got = heterogeneity(as_tensors(arrays, dtype), config)
    assert got.transport.item() == pytest.approx(transport, rel=TOLERANCE[dtype])
    assert got.prototype.item() == pytest.approx(prototype, rel=TOLERANCE[dtype])
    assert got.plan.plan.shape == (3,) * count
    assert list(got.mixtures) == list(arrays)


@every_m
def test_heterogeneity_with_unequal_numbers_of_samples(count):
    config = letter(covariance="diag", epsilon=10.0)
    arrays = draw(11, count, [14, 9, 11, 20][:count])
    transport, prototype, _ = literal_heterogeneity(arrays, config)
    got = heterogeneity(as_tensors(arrays), config)
    assert got.transport.item() == pytest.approx(transport, rel=1e-8)
    assert got.prototype.item() == pytest.approx(prototype, rel=1e-8)


@pytest.mark.parametrize("sizes", [[4, 4, 4], [12, 2, 9]])
def test_a_small_batch_takes_as_many_prototypes_as_the_smallest_modality_has_samples(sizes):
    config = letter(covariance="diag", components=7, epsilon=10.0)
    arrays = draw(12, 3, sizes)
    got = heterogeneity(as_tensors(arrays), config)
    assert got.plan.plan.shape == (min(sizes),) * 3
    transport, prototype, _ = literal_heterogeneity(arrays, config, components=min(sizes))
    assert got.transport.item() == pytest.approx(transport, rel=1e-8)
    assert got.prototype.item() == pytest.approx(prototype, rel=1e-8)


def test_relative_epsilon_is_in_units_of_the_mean_joint_cost():
    config = letter(covariance="diag", epsilon=0.3, relative_epsilon=True)
    arrays = draw(13, 3)
    transport, _, cost = literal_heterogeneity(arrays, config)
    got = heterogeneity({name: x.requires_grad_() for name, x in as_tensors(arrays).items()}, config)
    assert got.transport.requires_grad
    assert not torch.as_tensor(got.plan.epsilon).requires_grad  # no gradient through the scale
    assert got.transport.item() == pytest.approx(transport, rel=1e-7)
    assert float(got.plan.epsilon) == pytest.approx(0.3 * cost.mean(), rel=1e-10)
    scaled = letter(covariance="diag", epsilon=0.3, relative_epsilon=True, floor=100 * config.floor)
    bigger = heterogeneity(as_tensors({name: 10 * x for name, x in arrays.items()}), scaled)
    torch.testing.assert_close(bigger.plan.plan, got.plan.plan, rtol=1e-6, atol=1e-9)
    assert bigger.transport.item() == pytest.approx(100 * transport, rel=1e-6)


def test_scale_by_width_divides_both_terms_and_leaves_the_plan():
    arrays = as_tensors(draw(14, 3))
    options = {"covariance": "diag", "relative_epsilon": True, "epsilon": 0.3}
    plain, scaled = (heterogeneity(arrays, letter(scale_by_width=s, **options)) for s in (False, True))
    assert scaled.transport.item() == pytest.approx(plain.transport.item() / WIDTH, rel=1e-9)
    assert scaled.prototype.item() == pytest.approx(plain.prototype.item() / WIDTH, rel=1e-9)
    torch.testing.assert_close(scaled.plan.plan, plain.plan.plan, rtol=1e-7, atol=1e-12)


@every_m
def test_the_order_of_modalities_plays_no_part_in_the_values(count):
    arrays = as_tensors(draw(15, count, [9, 12, 10, 11][:count]))
    config = letter(covariance="diag", bandwidth=2.0)
    reference = heterogeneity(arrays, config), homogeneity(arrays, config)
    for order in list(permutations(arrays))[1:4]:
        shuffled = {name: arrays[name] for name in order}
        hete, homo = heterogeneity(shuffled, config), homogeneity(shuffled, config)
        assert hete.transport.item() == pytest.approx(reference[0].transport.item(), rel=1e-8)
        assert hete.prototype.item() == pytest.approx(reference[0].prototype.item(), rel=1e-10)
        assert homo.semantic.item() == pytest.approx(reference[1].semantic.item(), rel=1e-10)
        assert homo.mmd.item() == pytest.approx(reference[1].mmd.item(), rel=1e-10)


def test_identical_modalities():
    """The prototype term is then each modality's own scatter; a sharp transport costs nothing."""
    x = draw(16, 1)["first"]
    arrays = dict.fromkeys(NAMES[:3], x)
    config = letter(covariance="diag", epsilon=1e-3, relative_epsilon=True)
    got = heterogeneity(as_tensors(arrays), config)
    mixture = literal_mixtures({"first": x}, config, 3)[0]
    w = oracles.eq3_responsibilities(x, mixture)
    scatter = np.mean([sum(w[n, k] * np.sum((x[n] - mixture[1][k]) ** 2) for k in range(3)) for n in range(len(x))])
    assert got.prototype.item() == pytest.approx(scatter, rel=1e-9)
    assert 0 <= got.transport.item() < 1e-3
    same = homogeneity(as_tensors(arrays), config)
    assert same.semantic.item() == pytest.approx(0, abs=1e-25)
    assert same.mmd.item() == pytest.approx(0, abs=1e-14)


def test_pulling_modalities_apart_raises_every_term():
    arrays = as_tensors(draw(17, 3))
    config = ObjectiveConfig(components=3)
    values = []
    for shift in (0.0, 2.0, 8.0):
        moved = arrays | {"second": arrays["second"] + shift, "third": arrays["third"] - shift}
        hete, homo = heterogeneity(moved, config), homogeneity(moved, config)
        values.append([hete.transport.item(), hete.prototype.item(), homo.semantic.item(), homo.mmd.item()])
    assert (np.diff(np.array(values), axis=0) > 0).all()


def gradient_of(term, arrays):
    leaves = {name: x.clone().requires_grad_() for name, x in arrays.items()}
    return torch.autograd.grad(term(leaves), list(leaves.values()))


def test_one_graph_has_the_terms_and_gradients_of_the_plain_path():
    """Compiled as an accelerator would be: EM by PyTorch's operators (float64) and a fixed number of rounds."""
    config = ObjectiveConfig(components=3, em_steps=2, sinkhorn_iterations=4, sinkhorn_tolerance=None)

    def terms(pooled):
        hete, homo = heterogeneity(pooled, config), homogeneity(pooled, config)
        return hete.transport, hete.prototype, homo.semantic, homo.mmd

    pooled = {name: x.requires_grad_() for name, x in as_tensors(draw(8, 3)).items()}
    plain = terms(pooled)
    graph = torch.compile(terms, backend="aot_eager", fullgraph=True)(pooled)
    torch.testing.assert_close(graph, plain, rtol=1e-12, atol=0)
    for one, other in zip(graph, plain, strict=True):
        found, wanted = (
            torch.autograd.grad(term, list(pooled.values()), retain_graph=True, materialize_grads=True)
            for term in (one, other)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("through_marginals", [False, True])
@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_gradient_of_the_transport_term_is_the_envelope_theorems(covariance, through_marginals):
    """Finite difference of the entropic value: with the marginals held fixed, or free where they carry gradient."""
    config = letter(covariance=covariance, components=2, em_steps=2, through_marginals=through_marginals)
    arrays = draw(18, 3, 7, width=2)
    gradients = gradient_of(lambda x: heterogeneity(x, config).transport, as_tensors(arrays))
    reference = heterogeneity(as_tensors(arrays), config)
    fixed = [mixture.weights.numpy() for mixture in reference.mixtures.values()]
    epsilon, rng, step = float(reference.plan.epsilon), np.random.default_rng(0), 1e-5

    def entropic(arrays):
        mixtures = literal_mixtures(arrays, config, 2)
        cost = oracles.eq5_joint_cost(mixtures, (2, 2, 2), oracles.eq6_costs)
        marginals = [mixture[0] for mixture in mixtures] if through_marginals else fixed
        plan, _ = oracles.eq7_plan(cost, marginals, epsilon, iterations=2000)
        return oracles.eq7_objective(plan, cost, epsilon)

    for _ in range(3):
        direction = {name: rng.normal(size=x.shape) for name, x in arrays.items()}
        up, down = (entropic({n: x + s * step * direction[n] for n, x in arrays.items()}) for s in (1, -1))
        along = sum(float((g.numpy() * direction[n]).sum()) for g, n in zip(gradients, arrays, strict=True))
        assert (up - down) / (2 * step) == pytest.approx(along, rel=1e-4, abs=1e-5)


def test_through_marginals_changes_the_gradient_and_not_the_value():
    arrays = as_tensors(draw(19, 3))
    configs = [letter(covariance="diag", through_marginals=flag) for flag in (False, True)]
    values = [heterogeneity(arrays, config).transport.item() for config in configs]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    gradients = [gradient_of(lambda x, c=config: heterogeneity(x, c).transport, arrays) for config in configs]
    assert not torch.allclose(gradients[0][0], gradients[1][0])


@both_dtypes
@pytest.mark.parametrize("through_marginals", [False, True])
def test_empty_prototypes_leave_value_and_gradient_finite(through_marginals, dtype):
    """Most samples coincide, one is far away: some of the evenly spaced starts end up with no or next to no sample."""
    rng = np.random.default_rng(20)
    arrays = draw(20, 3, 16)
    for x in arrays.values():
        x[:] = 1e-3 * rng.normal(size=x.shape)
        x[5] = 1e3
    config = ObjectiveConfig(components=5, through_marginals=through_marginals)
    got = heterogeneity(as_tensors(arrays, dtype), config)
    assert torch.isfinite(got.transport)
    assert torch.isfinite(got.prototype)
    gradients = gradient_of(lambda x: sum(terms_of(heterogeneity(x, config))), as_tensors(arrays, dtype))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def terms_of(hete):
    return hete.transport, hete.prototype


@both_dtypes
def test_constant_features_leave_value_and_gradient_finite(dtype):
    """A collapsed encoder: every cost is 0, so is the relative epsilon's unit."""
    arrays = dict.fromkeys(NAMES[:3], torch.ones(6, WIDTH, dtype=dtype))
    for config in (ObjectiveConfig(), ObjectiveConfig.letter(), ObjectiveConfig(through_marginals=True)):
        hete, homo = heterogeneity(arrays, config), homogeneity(arrays, config)
        for term in (*terms_of(hete), homo.semantic, homo.mmd):
            assert term.item() == pytest.approx(0, abs=1e-6)

        def total(x, config=config):
            return (
                sum(terms_of(heterogeneity(x, config))) + homogeneity(x, config).semantic + homogeneity(x, config).mmd
            )

        assert all(torch.isfinite(gradient).all() for gradient in gradient_of(total, arrays))


# ----------------------------------------------------------------------------------------------------------- Eq 10, 11


@both_dtypes
@every_m
@pytest.mark.parametrize("sizes", ["equal", "unequal"])
def test_homogeneity_is_equations_10_and_11(sizes, count, dtype):
    arrays = draw(21, count, 12 if sizes == "equal" else [12, 7, 9, 5][:count])
    for unbiased in (False, True):
        config = letter(bandwidth=2.0, unbiased=unbiased)
        got = homogeneity(as_tensors(arrays, dtype), config)
        latents = list(arrays.values())
        assert got.semantic.item() == pytest.approx(oracles.eq10_semantic(latents), rel=TOLERANCE[dtype])
        assert got.mmd.item() == pytest.approx(oracles.eq11_mmd(latents, 2.0, unbiased), rel=TOLERANCE[dtype])


def test_bandwidth_multiples_are_averaged_and_median_is_per_pair():
    arrays = draw(22, 3, [7, 8, 7])  # pooled pairs of points: 105 or 91, odd, so the median is one of them
    latents = list(arrays.values())
    got = homogeneity(as_tensors(arrays), letter(bandwidth="median", bandwidth_multiples=(0.5, 2.0)))
    total = 0.0
    for i in range(3):
        for j in range(i + 1, 3):
            pooled = np.concatenate([latents[i], latents[j]])
            distances = [np.linalg.norm(pooled[a] - pooled[b]) for a in range(len(pooled)) for b in range(a)]
            median = np.median(distances)
            total += sum(oracles.eq11_bracket(latents[i], latents[j], m * median) for m in (0.5, 2.0)) / 2
    assert got.mmd.item() == pytest.approx(2 / (3 * 2) * total, rel=2e-3 if len(distances) % 2 == 0 else 1e-8)


def test_scale_by_width_divides_equation_10_and_not_11():
    arrays = as_tensors(draw(23, 3))
    plain, scaled = (homogeneity(arrays, letter(scale_by_width=flag)) for flag in (False, True))
    assert scaled.semantic.item() == pytest.approx(plain.semantic.item() / WIDTH, rel=1e-12)
    assert scaled.mmd.item() == pytest.approx(plain.mmd.item(), rel=1e-12)


def test_equations_10_and_11_do_not_share_their_factor():
    """M = 2: Eq 10 halves its one bracket, Eq 11 leaves it."""
    x, y = draw(24, 2).values()
    got = homogeneity(as_tensors({"first": x, "second": y}), letter(bandwidth=2.0))
    assert got.semantic.item() == pytest.approx(oracles.eq10_bracket(x, y) / 2, rel=1e-9)
    assert got.mmd.item() == pytest.approx(oracles.eq11_bracket(x, y, 2.0), rel=1e-9)


def test_the_mmd_term_has_a_gradient_in_a_wide_space_with_the_default_bandwidth_only():
    rng = np.random.default_rng(25)
    arrays = as_tensors({name: rng.normal(size=(32, 64)) for name in NAMES[:2]})
    wide, saturated = (
        gradient_of(lambda x, c=config: homogeneity(x, c).mmd, arrays)[0].norm()
        for config in (ObjectiveConfig(), ObjectiveConfig.letter())
    )
    assert wide > 1e6 * saturated


@pytest.mark.parametrize("sizes", [[1, 1, 1], [0, 0, 0], [5, 1, 0]])
def test_too_few_samples_are_0_and_still_differentiable(sizes):
    arrays = as_tensors(draw(26, 3, sizes))
    leaves = {name: x.requires_grad_() for name, x in arrays.items()}
    for config in (ObjectiveConfig(), ObjectiveConfig.letter()):
        hete, homo = heterogeneity(leaves, config), homogeneity(leaves, config)
        total = sum((*terms_of(hete), homo.semantic, homo.mmd))
        assert total.item() == 0
        total.backward()
        assert all(x.grad is None or (torch.isfinite(x.grad).all() and not x.grad.any()) for x in leaves.values())


def test_a_modality_without_samples_leaves_the_others_to_be_aligned():
    arrays = draw(27, 3, [9, 8, 0])
    two = {name: arrays[name] for name in NAMES[:2]}
    config = letter(covariance="diag", bandwidth=2.0, epsilon=10.0)
    transport, prototype, _ = literal_heterogeneity(two, config)
    hete, homo = heterogeneity(as_tensors(arrays), config), homogeneity(as_tensors(arrays), config)
    assert hete.transport.item() == pytest.approx(transport, rel=1e-8)
    assert hete.prototype.item() == pytest.approx(prototype, rel=1e-8)
    assert homo.semantic.item() == pytest.approx(oracles.eq10_semantic(list(two.values())), rel=1e-9)
    assert homo.mmd.item() == pytest.approx(oracles.eq11_mmd(list(two.values()), 2.0), rel=1e-9)


# --------------------------------------------------------------------------------------------------------- contrastive


@both_dtypes
def test_contrastive_is_the_literal_loss(dtype):
    rng = np.random.default_rng(28)
    fused = rng.normal(size=(9, 4))
    labels = np.array([0, 1, 0, 2, 1, 1, 0, 3, 4])  # 2, 3 and 4 have no positive
    expected = oracles.supervised_contrastive(fused, labels, 0.5)
    got = contrastive(torch.as_tensor(fused, dtype=dtype), torch.as_tensor(labels), temperature=0.5)
    assert got.item() == pytest.approx(expected, rel=1e-10 if dtype == torch.float64 else 1e-4)
    scores = torch.as_tensor(labels + rng.uniform(-0.4, 0.4, size=9), dtype=dtype)  # scores round to their class
    got = contrastive(torch.as_tensor(5 * fused, dtype=dtype), scores, temperature=0.5)
    assert got.item() == pytest.approx(expected, rel=1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0]])
def test_contrastive_without_positives_is_0_with_finite_gradient(labels):
    fused = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = contrastive(fused, torch.tensor(labels))
    assert value.item() == 0
    value.backward()
    assert torch.isfinite(fused.grad).all()


def test_gradient_of_the_contrastive_term():
    fused = torch.as_tensor(np.random.default_rng(29).normal(size=(5, 3))).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: contrastive(x, labels, temperature=0.5), fused)
    zero = torch.zeros(4, 3, requires_grad=True)
    contrastive(zero, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(zero.grad).all()


# --------------------------------------------------------------------------------------------------------------- Eq 13

FIELDS = ("unique", "common", "pooled_unique", "pooled_common", "latent")


def example(seed, count=3, samples=12, dtype=torch.float64, classes=None):
    """A representation of random leaves, and its batch; every modality is present in every sample."""
    unique, common, masks = blocks(seed, count, samples)
    masks = {name: torch.as_tensor(mask) for name, mask in masks.items()}
    rng = np.random.default_rng(seed)
    pooled = [draw(seed + i, count, samples) for i in range(3)]
    by_modality = {
        field: {name: x.requires_grad_() for name, x in as_tensors(arrays, dtype).items()}
        for field, arrays in zip(FIELDS, (unique, common, *pooled), strict=True)
    }
    outputs = classes or 1
    fused = torch.as_tensor(rng.normal(size=(samples, 5)), dtype=dtype).requires_grad_()
    prediction = torch.as_tensor(rng.normal(size=(samples, outputs)), dtype=dtype).requires_grad_()
    target = torch.as_tensor(rng.integers(-3, 4, size=samples) * 1.0, dtype=dtype)
    if classes:
        target = torch.as_tensor(rng.integers(classes, size=samples))
    features = {name: torch.zeros(*mask.shape, 2) for name, mask in masks.items()}
    batch = Batch(features=features, masks=masks, target=target, ids=[f"v$_${i}" for i in range(samples)])
    return Representation(**by_modality, masks=masks, fused=fused, prediction=prediction), batch


def leaves_of(representation):
    found = {f"{field}.{name}": x for field in FIELDS for name, x in getattr(representation, field).items()}
    return found | {"fused": representation.fused, "prediction": representation.prediction}


def array_lists(by_modality):
    return [x.detach().double().numpy() for x in by_modality.values()]


@both_dtypes
@every_m
def test_every_term_and_the_total_are_the_papers(count, dtype):
    representation, batch = example(30, count, dtype=dtype)
    config = letter(alpha=0.3, beta=0.7, bandwidth=2.0, epsilon=10.0, sinkhorn_tolerance=1e-6)
    got = objective(representation, batch, config)
    score, target = representation.prediction.detach().double().numpy()[:, 0], batch.target.double().numpy()
    task = sum((score - target) ** 2) / len(score)
    masks = [mask.numpy() for mask in batch.masks.values()]
    apart = oracles.eq1_decoupling(array_lists(representation.unique), array_lists(representation.common), masks)
    pooled = dict(zip(NAMES, array_lists(representation.pooled_unique), strict=False))
    transport, prototype, _ = literal_heterogeneity(pooled, config)
    latents = array_lists(representation.latent)
    semantic, discrepancy = oracles.eq10_semantic(latents), oracles.eq11_mmd(latents, 2.0)
    total = oracles.eq13_total(task, apart, transport + prototype, semantic + discrepancy, 0.3, 0.7)
    expected = {
        "task": task,
        "decoupling": apart,
        "transport": transport,
        "prototype": prototype,
        "semantic": semantic,
        "mmd": discrepancy,
        "total": total,
    }
    for name, value in expected.items():
        assert getattr(got, name).item() == pytest.approx(value, rel=2e-3 if dtype.itemsize == 4 else 1e-5), name
        assert getattr(got, name).shape == ()


WEIGHTS = {
    "decoupling": {"decoupling_weight": 1.7},
    "transport": {"alpha": 0.5, "transport_weight": 3.0},
    "prototype": {"alpha": 0.5, "prototype_weight": 4.0},
    "semantic": {"beta": 0.25, "semantic_weight": 5.0},
    "mmd": {"beta": 0.25, "mmd_weight": 6.0},
    "contrastive": {"contrastive_weight": 0.9},
}


def test_total_is_the_weighted_sum_and_the_fields_are_unweighted():
    representation, batch = example(31)
    changes = {name: value for options in WEIGHTS.values() for name, value in options.items()}
    got = objective(representation, batch, ObjectiveConfig(components=3, **changes))
    plain = objective(representation, batch, ObjectiveConfig(components=3))
    expected = got.task
    for term, options in WEIGHTS.items():
        weight = float(np.prod(list(options.values())))
        expected = expected + weight * getattr(got, term)
        assert torch.equal(getattr(got, term), getattr(plain, term))
    assert got.total.item() == pytest.approx(expected.item(), rel=1e-12)
    default = plain.task + plain.decoupling + 0.05 * (plain.transport + plain.prototype)
    default = default + 0.05 * (plain.semantic + plain.mmd) + 0.05 * plain.contrastive
    assert plain.total.item() == pytest.approx(default.item(), rel=1e-12)
    assert plain.contrastive.item() > 0


OFF = {
    "decoupling_weight": (("decoupling",), ("unique", "common")),
    "alpha": (("transport", "prototype"), ("pooled_unique",)),
    "beta": (("semantic", "mmd"), ("latent",)),
    "contrastive_weight": (("contrastive",), ("fused",)),
}


@pytest.mark.parametrize("weight", list(OFF))
def test_weight_0_removes_the_gradient_and_keeps_the_record(weight):
    representation, batch = example(32)
    on = {"decoupling_weight": 1.0, "alpha": 0.5, "beta": 0.5, "contrastive_weight": 0.5}
    full = objective(representation, batch, ObjectiveConfig(components=3, **on))
    got = objective(representation, batch, ObjectiveConfig(components=3, **on | {weight: 0.0}))
    terms, fields = OFF[weight]
    for term in terms:
        assert getattr(got, term).item() == pytest.approx(getattr(full, term).item(), rel=1e-12)
        assert getattr(got, term).item() != 0
        assert getattr(full, term).requires_grad
        assert not getattr(got, term).requires_grad
    leaves = leaves_of(representation)
    gradients = torch.autograd.grad(got.total, list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, gradients, strict=True):
        silent = name.split(".")[0] in (*fields, "pooled_common")  # no term of the objective reads pooled_common
        assert (gradient is None or not gradient.any()) == silent, name


@pytest.mark.parametrize(
    ("kept", "dropped"),
    [("transport", "prototype"), ("prototype", "transport"), ("semantic", "mmd"), ("mmd", "semantic")],
)
def test_weight_0_of_one_half_leaves_the_other_halfs_gradient(kept, dropped):
    representation, batch = example(33)
    config = ObjectiveConfig(components=3, decoupling_weight=0.0, **{f"{dropped}_weight": 0.0})
    got = objective(representation, batch, config)
    field = representation.pooled_unique if kept in ("transport", "prototype") else representation.latent
    leaves = list(field.values())
    total = torch.autograd.grad(got.total, leaves, retain_graph=True)
    alone = torch.autograd.grad(0.05 * getattr(got, kept), leaves)
    for a, b in zip(total, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@both_dtypes
@every_m
@pytest.mark.parametrize(
    "config",
    [ObjectiveConfig(contrastive_weight=0.1), ObjectiveConfig.letter(components=3, through_marginals=True)],
    ids=["default", "letter"],
)
def test_every_input_gets_a_finite_gradient(config, count, dtype):
    representation, batch = example(34, count, dtype=dtype)
    losses = objective(representation, batch, config)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    for name, leaf in leaves_of(representation).items():
        unread = name.startswith("pooled_common") or (name == "fused" and not config.contrastive_weight)
        assert (leaf.grad is None) == unread, name
        if not unread:
            assert torch.isfinite(leaf.grad).all(), name
            assert leaf.grad.any(), name


def test_absent_samples_are_left_out_of_the_statistics():
    """Rows of an absent modality may hold anything: the terms are those of the other rows alone.

    Prototypes of equal index start from the same samples: evenly spaced ones of 1, 4, 6, 7, 8, 9, 10, which all have.
    """
    config = letter(covariance="diag", bandwidth=2.0, epsilon=10.0)
    representation, batch = example(35)
    absent = {"first": [0, 5], "second": [], "third": [2, 3, 11]}
    with torch.no_grad():
        for name, rows in absent.items():
            batch.masks[name][rows] = False
            for field in ("unique", "common"):
                getattr(representation, field)[name][rows] = float("nan")
            for field in ("pooled_unique", "latent"):
                getattr(representation, field)[name][rows] = float("nan")
    got = objective(representation, batch, config)
    got.total.backward()

    def kept(by_modality):
        arrays = zip(by_modality, array_lists(by_modality), strict=True)
        return {name: np.delete(x, absent[name], axis=0) for name, x in arrays}

    own = {name: [row for row in range(12) if row not in rows] for name, rows in absent.items()}
    starts = {name: [rows.index(row) for row in (1, 7, 10)] for name, rows in own.items()}
    pooled = kept(representation.pooled_unique)
    transport, prototype, _ = literal_heterogeneity(pooled, config, starts=starts)
    latents = list(kept(representation.latent).values())
    assert got.transport.item() == pytest.approx(transport, rel=1e-7)
    assert got.prototype.item() == pytest.approx(prototype, rel=1e-7)
    assert got.semantic.item() == pytest.approx(oracles.eq10_semantic(latents), rel=1e-9)
    assert got.mmd.item() == pytest.approx(oracles.eq11_mmd(latents, 2.0), rel=1e-9)
    masks = [mask.numpy() for mask in batch.masks.values()]
    apart = oracles.eq1_decoupling(array_lists(representation.unique), array_lists(representation.common), masks)
    assert got.decoupling.item() == pytest.approx(apart, rel=1e-9)  # an absent block is a zero vector: it counts 0
    for name, leaf in leaves_of(representation).items():
        if leaf.grad is not None:
            assert torch.isfinite(leaf.grad).all(), name


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_a_small_last_batch_has_all_terms(samples):
    representation, batch = example(36, samples=samples)
    for config in (ObjectiveConfig(contrastive_weight=0.1), ObjectiveConfig.letter(), ObjectiveConfig(unbiased=True)):
        got = objective(representation, batch, config)
        assert torch.isfinite(got.total)
        if samples == 1:
            assert got.transport.item() == got.prototype.item() == got.semantic.item() == got.mmd.item() == 0
        for leaf in leaves_of(representation).values():
            leaf.grad = None
        got.total.backward()
        for name, leaf in leaves_of(representation).items():
            assert leaf.grad is None or torch.isfinite(leaf.grad).all(), name


def test_everything_runs_in_float32_under_half_precision_inputs():
    representation, batch = example(37, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = objective(representation, batch, ObjectiveConfig(components=3, contrastive_weight=0.1))
    wide, _ = example(37, dtype=torch.bfloat16)
    as_float = Representation(
        **{f: {n: x.detach().float() for n, x in getattr(wide, f).items()} for f in FIELDS},
        masks=wide.masks,
        fused=wide.fused.detach().float(),
        prediction=wide.prediction.detach().float(),
    )
    expected = objective(as_float, batch, ObjectiveConfig(components=3, contrastive_weight=0.1))
    for name in ("task", *WEIGHTS, "total"):
        assert getattr(got, name).dtype == torch.float32, name
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=1e-6, atol=1e-7)
    got.total.backward()
    assert all(x.grad is None or torch.isfinite(x.grad).all() for x in leaves_of(representation).values())


def test_tasks_mean_squared_error_and_cross_entropy():
    representation, batch = example(38, classes=4)
    logits = representation.prediction.detach().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -np.mean([log_p[i, label] for i, label in enumerate(batch.target.tolist())])
    assert objective(representation, batch, ObjectiveConfig()).task.item() == pytest.approx(expected, rel=1e-10)
    representation, batch = example(39)
    difference = representation.prediction.detach()[:, 0].numpy() - batch.target.numpy()
    by_task = {"mse": np.mean(difference**2), "mae": np.mean(np.abs(difference))}
    for task, value in by_task.items():
        assert objective(representation, batch, ObjectiveConfig(task=task)).task.item() == pytest.approx(value)


def test_the_binary_loss_is_of_the_signs_of_non_zero_scores():
    score = torch.tensor([[1.5], [-0.5], [0.25], [2.0]], dtype=torch.float64)
    target = torch.tensor([2.0, 1.0, -3.0, 0.0], dtype=torch.float64)  # the last one has no sign
    of_signs = (np.log1p(np.exp(-1.5)) + np.log1p(np.exp(0.5)) + np.log1p(np.exp(0.25))) / 3
    config = ObjectiveConfig(binary_weight=0.3)
    plain = task_loss(score, target, ObjectiveConfig()).item()
    assert task_loss(score, target, config).item() - plain == pytest.approx(0.3 * of_signs)
    zeros = torch.zeros_like(target)
    assert task_loss(score, zeros, config).item() == task_loss(score, zeros, ObjectiveConfig()).item()


def test_without_a_configuration_it_is_the_default_one():
    representation, batch = example(40)
    assert torch.equal(
        objective(representation, batch).total, objective(representation, batch, ObjectiveConfig()).total
    )


def test_marginal_error_is_reported():
    representation, batch = example(41)
    config = ObjectiveConfig(components=3)
    hete = heterogeneity(representation.pooled_unique, config)
    weights = [mixture.weights.detach().numpy() for mixture in hete.mixtures.values()]
    got = objective(representation, batch, config).marginal_error
    assert float(got) == pytest.approx(oracles.eq8_error(hete.plan.plan.numpy(), weights), abs=1e-12)
    assert float(got) <= config.sinkhorn_tolerance


def test_the_configuration_says_what_is_wrong():
    with pytest.raises(TypeError):
        ObjectiveConfig(gamma=1.0)
    for change in (
        {"components": 0},
        {"penalty": "cubed"},
        {"epsilon": 0.0},
        {"bandwidth": "mean"},
        {"covariance": "x"},
    ):
        with pytest.raises(ValueError, match=next(iter(change))):
            ObjectiveConfig(**change)


def test_the_letter_is_the_papers():
    config = ObjectiveConfig.letter()
    assert config.penalty == "signed"
    assert config.covariance == "full"
    assert not config.relative_epsilon
    assert not config.scale_by_width
    assert config.bandwidth_multiples == (1.0,)
    assert (config.alpha, config.beta, config.decoupling_weight, config.contrastive_weight) == (0.05, 0.05, 1.0, 0.0)
    assert config.task == "mse"


# --- couplings ---


def clusters(count=3, samples=40, width=6):
    return {f"m{i}": torch.randn(samples, width).double() + 2 * torch.randint(3, (samples, 1)) for i in range(count)}


def test_couplings_agree_where_they_solve_the_same():
    pooled = clusters()
    options = {"components": 4, "epsilon": 0.5, "sinkhorn_iterations": 500, "sinkhorn_tolerance": 1e-8}
    dense = heterogeneity(pooled, ObjectiveConfig(**options))
    drawn = heterogeneity(pooled, ObjectiveConfig(**options, coupling="sampled", samples=16384))
    assert torch.equal(drawn.prototype, dense.prototype)
    assert abs(drawn.transport - dense.transport) <= 0.01 * dense.transport
    for (i, j), plan in drawn.plan.plans.items():
        rest = 3 - i - j
        assert (plan - dense.plan.plan.sum(rest)).abs().max() <= 2 * drawn.plan.disagreement
    two = {name: pooled[name] for name in ("m0", "m1")}
    solved = [heterogeneity(two, ObjectiveConfig(**options, coupling=name)) for name in ("dense", "chain", "star")]
    assert all(abs(other.transport - solved[0].transport) <= 1e-9 for other in solved)


@pytest.mark.parametrize("coupling", ["chain", "star", "sampled"])
def test_every_coupling_trains_eight_modalities(coupling):
    pooled = {name: x.requires_grad_() for name, x in clusters(8).items()}
    config = ObjectiveConfig(coupling=coupling, components=5, samples=512, sinkhorn_iterations=300)
    found = heterogeneity(pooled, config)
    gradients = torch.autograd.grad(found.transport, list(pooled.values()))
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)
    assert found.plan.marginal_error <= 1e-4


HERE = sys.modules[heterogeneity.__module__]  # the package's attribute of that name is the function


def test_a_plan_of_too_many_cells_names_the_other_couplings(monkeypatch):
    monkeypatch.setattr(HERE, "_joint_cost", lambda *_: pytest.fail("the plan was made"))
    said = "^objective.coupling: wanted 'sampled', 'chain' or 'star' .* 268435456 cells, got 'dense' with 7 prototypes"
    for count in (10, 13):
        with pytest.raises(ValueError, match=f"{said} of each of {count} modalities$"):
            heterogeneity(clusters(count), ObjectiveConfig())


def test_a_plan_of_as_many_cells_as_there_may_be_is_solved(monkeypatch):
    monkeypatch.setattr(HERE, "_MOST_CELLS", 4**3)
    assert heterogeneity(clusters(3), ObjectiveConfig(components=4)).plan.plan.shape == (4, 4, 4)
    with pytest.raises(ValueError, match="more than 64 cells"):
        heterogeneity(clusters(3), ObjectiveConfig(components=5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"coupling": "ring"}, "objective.coupling: wanted one of"),
        ({"coupling": "sampled", "covariance": "full"}, "objective.covariance: wanted 'diag'"),
        ({"coupling": "chain", "through_marginals": True}, "objective.coupling: wanted 'dense'"),
        ({"samples": 0}, "objective.samples: wanted a positive number"),
    ],
)
def test_wrong_couplings_are_an_error(settings, said):
    with pytest.raises(ValueError, match=said):
        ObjectiveConfig(**settings)
