"""TFN: its tensor is the outer product of the extended summaries and holds every order of interaction."""

from itertools import combinations, product
from math import prod

import pytest
import torch

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.peers.tfn import TFN, TFNConfig, extended, outer_product

WIDTHS = (3, 2, 4, 2)


def summaries(count, samples=5):
    return {f"m{i}": torch.randn(samples, WIDTHS[i], dtype=torch.float64) for i in range(count)}


def tensor(values, count):
    """The flattened outer product in its M dimensions: (B, 1 + d_1, ..., 1 + d_M)."""
    return outer_product(values).unflatten(1, [1 + width for width in WIDTHS[:count]])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_tensor_is_the_literal_outer_product(count):
    values = summaries(count)
    got = tensor(values, count)
    longer = [torch.cat([torch.ones(5, 1, dtype=torch.float64), z], dim=1) for z in values.values()]
    for row in range(5):
        for index in product(*(range(1 + width) for width in WIDTHS[:count])):
            wanted = prod(float(z[row, i]) for z, i in zip(longer, index, strict=True))
            assert abs(float(got[(row, *index)]) - wanted) <= 1e-12


@pytest.mark.parametrize("count", [2, 3, 4])
def test_tensor_holds_all_unimodal_bimodal_and_higher_terms(count):
    values = summaries(count)
    got, names = tensor(values, count), list(values)
    letters = "abcd"
    for order in range(count + 1):
        for members in combinations(range(count), order):
            # index 0 of a dimension is its 1: leaves that modality out
            part = got[(slice(None), *(slice(1, None) if i in members else 0 for i in range(count)))]
            inputs = ",".join("z" + letters[i] for i in members)
            spelled = f"{inputs}->z{''.join(letters[i] for i in members)}"
            factors = [values[names[i]] for i in members]
            wanted = torch.einsum(spelled, *factors) if members else torch.ones(5, dtype=torch.float64)
            assert torch.allclose(part, wanted)


def test_model_reads_the_tensor_of_its_summaries():
    spec = ModalitySpec(width=5, length_min=2, length_max=6)
    batch = generate(SyntheticConfig(samples=(6, 4, 4), modalities=modalities(3, spec))).train
    model = TFN(TFNConfig(modalities=dict.fromkeys(batch.features, 5), width=4, hidden=7)).eval()
    representation = model(batch)
    a, b, c = (extended(z) for z in representation.pooled_common.values())
    wanted = torch.einsum("zi,zj,zk->zijk", a, b, c).flatten(1)
    assert representation.fused.shape == (6, 5**3) and torch.allclose(representation.fused, wanted)
    assert torch.equal(representation.prediction, model.head(representation.fused))
