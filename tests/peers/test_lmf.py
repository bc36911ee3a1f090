"""LMF: the same as a full weight tensor on TFN's outer product, where that tensor is a sum of rank-one tensors."""

import pytest
import torch

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.peers.lmf import LMF, LMFConfig, initial_factor, low_rank_fusion
from decalign_core.peers.tfn import outer_product

WIDTHS = (3, 2, 4, 2)


def summaries_and_factors(count, rank, hidden=6):
    summaries = {f"m{i}": torch.randn(5, WIDTHS[i], dtype=torch.float64) for i in range(count)}
    factors = {f"m{i}": torch.randn(rank, 1 + WIDTHS[i], hidden, dtype=torch.float64) for i in range(count)}
    return summaries, factors


def weight_tensor(factors):
    """The sum over ranks of the factors' outer products, literally: (1 + d_1, ..., 1 + d_M, hidden)."""
    letters = "abcd"[: len(factors)]
    spelled = ",".join(f"r{letter}h" for letter in letters)
    return torch.einsum(f"{spelled}->{letters}h", *factors.values())


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("rank", [1, 3])
def test_equals_the_full_tensor_contraction(count, rank):
    summaries, factors = summaries_and_factors(count, rank)
    wanted = outer_product(summaries) @ weight_tensor(factors).flatten(0, -2)
    assert torch.allclose(low_rank_fusion(summaries, factors), wanted)


def test_any_full_tensor_is_reached_at_full_rank():
    summaries, _ = summaries_and_factors(2, 1)
    full = torch.randn(4, 3, 6, dtype=torch.float64)
    # rank r picks row r of the first modality and holds that row of the tensor as the second one's factor
    factors = {"m0": torch.eye(4, dtype=torch.float64).unsqueeze(-1).expand(4, 4, 6), "m1": full}
    assert torch.allclose(low_rank_fusion(summaries, factors), outer_product(summaries) @ full.flatten(0, 1))


def test_model_fuses_its_summaries():
    spec = ModalitySpec(width=5, length_min=2, length_max=6)
    batch = generate(SyntheticConfig(samples=(6, 4, 4), modalities=modalities(3, spec))).train
    model = LMF(LMFConfig(modalities=dict.fromkeys(batch.features, 5), width=4, hidden=7, rank=2)).eval()
    representation = model(batch)
    wanted = outer_product(representation.pooled_common) @ weight_tensor(dict(model.factors)).flatten(0, -2)
    assert representation.fused.shape == (6, 7) and torch.allclose(representation.fused, wanted, atol=1e-5)
    assert torch.equal(representation.prediction, model.head(representation.fused))


def test_size_grows_with_the_sum_of_the_modalities():
    sizes = []
    for count in (2, 3, 4):
        model = LMF(LMFConfig(modalities={f"m{i}": 5 for i in range(count)}, width=4, hidden=7, rank=2))
        sizes.append(sum(factor.numel() for factor in model.factors.values()))
    assert sizes == [count * 2 * (1 + 4) * 7 for count in (2, 3, 4)]


def test_fusion_begins_at_one_where_the_summaries_are_zero():
    factors = {f"m{i}": initial_factor(3, 5, 4, 6) for i in range(3)}
    fused = low_rank_fusion({name: torch.zeros(2, 4) for name in factors}, factors)
    assert torch.allclose(fused, torch.ones(2, 6)) and factors["m0"][:, 1:].std() > 0
