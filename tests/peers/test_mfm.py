"""MFM: the label comes from the shared factor, a modality from the shared and its own, and factors follow the prior."""

from dataclasses import replace

import pytest
import torch

from decalign_core.data.synthetic import ModalitySpec, SyntheticConfig, generate, modalities
from decalign_core.peers import mfm
from decalign_core.peers.mfm import MFM, MFMConfig, prior_distance, reconstruction


def make(count=3, **settings):
    spec = ModalitySpec(width=5, length_min=2, length_max=6, noise=0.1)
    batch = generate(SyntheticConfig(samples=(32, 4, 4), modalities=modalities(count, spec))).train.trimmed()
    return MFM(MFMConfig(**{"modalities": dict.fromkeys(batch.features, 5), "width": 8} | settings)), batch


def test_decoder_learns_to_reconstruct():
    model, batch = make(2, width=16, reconstruction_weight=1.0, factor_dropout=0.0)
    planted = {name: torch.randn(32, 1, 2) @ torch.randn(2, 5) for name in batch.features}
    batch = replace(batch, features={name: planted[name].expand_as(x) for name, x in batch.features.items()})
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(40):
        losses = mfm.objective(model(batch), batch, model.config)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    for name, x in batch.features.items():
        variance = x[batch.masks[name]].var(dim=0, correction=0).mean()  # the error of the mean frame
        assert losses.auxiliary[f"reconstruction_{name}"] < 0.5 * variance


def test_label_is_read_from_the_shared_factor_alone():
    model, batch = make()
    model.eval()
    representation = model(batch)
    assert torch.equal(representation.prediction, model.head(model.shared_map(representation.extras["z"])))
    representation.prediction.sum().backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith(("own", "decoders")))


def test_modality_is_decoded_from_the_shared_and_its_own_factor():
    model, batch = make()
    model.eval()
    extras = model(batch).extras
    shared, own = model.shared_map(extras["z"]), model.own_maps["modality1"](extras["z modality1"])
    wanted = extras["decoded modality1"]
    assert torch.equal(model.decode("modality1", shared, own, wanted.shape[1]), wanted)
    assert not torch.allclose(model.decode("modality1", shared + 1, own, wanted.shape[1]), wanted)
    assert not torch.allclose(model.decode("modality1", shared, own + 1, wanted.shape[1]), wanted)


def test_own_factor_reads_its_modality_alone():
    model, batch = make()
    model.eval()
    changed = replace(batch, features={**batch.features, "modality1": batch.features["modality1"] + 1})
    before, after = model(batch).extras, model(changed).extras
    assert torch.equal(before["z modality2"], after["z modality2"])
    for name in ("z", "z modality1"):
        assert not torch.allclose(before[name], after[name])


def test_prior_term_is_zero_of_samples_of_the_prior_and_only_of_those():
    of_prior = torch.stack([prior_distance(torch.randn(400, 6), 1.0) for _ in range(5)]).mean()
    shifted, narrow = prior_distance(torch.randn(400, 6) + 1, 1.0), prior_distance(torch.randn(400, 6) / 4, 1.0)
    assert of_prior.abs() < 3e-3
    assert min(shifted, narrow) > 20 * of_prior.abs()


@pytest.mark.parametrize("samples", [0, 1])
def test_prior_term_needs_two_samples(samples):
    assert prior_distance(torch.randn(samples, 6), 1.0) == 0


def test_reconstruction_is_literal_and_ignores_padding():
    decoded, frames = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    terms = [((decoded[b, t] - frames[b, t]) ** 2).mean() for b, t in ((0, 0), (0, 1), (1, 0))]
    assert torch.isclose(reconstruction(decoded, frames, mask), sum(terms) / 3)
    decoded[~mask] = float("nan")
    assert torch.isclose(reconstruction(decoded, frames, mask), sum(terms) / 3)
    assert reconstruction(decoded, frames, torch.zeros_like(mask)) == 0


def test_objective_weighs_its_terms():
    weights = {"modality1": 0.5, "modality2": 2.0}
    model, batch = make(reconstruction_weight=weights, prior_weight=0.3)
    losses = mfm.objective(model(batch), batch, model.config)
    own = losses.auxiliary
    assert set(own) == {"prior", *(f"reconstruction_{name}" for name in batch.features)}
    wanted = losses.task + 0.5 * own["reconstruction_modality1"] + 2 * own["reconstruction_modality2"]
    assert torch.isclose(losses.total, wanted + 0.3 * own["prior"])


def test_input_dropout_leaves_what_is_to_be_reconstructed():
    model, batch = make(input_dropout=0.9)
    for name, x in batch.features.items():
        assert torch.equal(model(batch).extras[f"frames {name}"], x.where(batch.masks[name].unsqueeze(-1), 0))
    assert not torch.equal(model(batch).prediction, model(batch).prediction)


def test_bandwidth_is_above_0():
    with pytest.raises(ValueError, match="peer.bandwidth: wanted a positive number, got 0.0"):
        MFMConfig(bandwidth=0.0)
