"""The text backbone on a tiny BERT with random weights, written to a temporary folder: nothing is downloaded."""

import copy
import sys

import pytest
import tiny_bert
import torch

from decalign_core.nn import text
from decalign_core.nn.text import TextBackbone, TextEncoder, encode

transformers = pytest.importorskip("transformers", reason="the optional extra decalign-core[text] is not installed")

TEXTS = ["it was a good film", "bad", "a bad film"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("tiny-bert"), layers=2)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    # The environment variable HF_HUB_OFFLINE is read only when the library is first imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a test went to the network"))


def test_tokens_are_padded_to_the_longest_and_cut_at_the_limit(folder):
    ids, mask = TextEncoder(folder).tokens(TEXTS)
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert ids.shape == mask.shape == (3, 7)
    assert mask.sum(dim=1).tolist() == [7, 3, 5]
    assert ids[1].tolist() == [2, 7, 3, 0, 0, 0, 0]
    assert TextEncoder(folder, max_length=4).tokens(TEXTS)[0].shape == (3, 4)


def test_padding_further_changes_no_valid_state(folder):
    backbone = TextEncoder(folder).build()
    ids, mask = TextEncoder(folder).tokens(TEXTS)
    states = backbone(ids, mask)
    assert states.shape == (3, 7, backbone.width) and backbone.width == 16
    assert states[~mask].eq(0).all() and states[mask].abs().sum() > 0
    pad = torch.nn.functional.pad
    longer = backbone(pad(ids, (0, 9), value=5), pad(mask, (0, 9)))
    assert (longer[:, :7] - states).abs().max() <= 1e-5
    assert longer[:, 7:].eq(0).all()


def test_texts_of_like_length_together_give_the_states_and_gradients_of_one_piece(folder, monkeypatch):
    backbone = TextEncoder(folder, fine_tune=True).build().eval()
    ids, mask = TextEncoder(folder).tokens(TEXTS)
    mask[1] = False

    def run(together):
        monkeypatch.setattr(text, "LIKE_LENGTH", together)
        states = backbone(ids, mask)
        backbone.zero_grad()
        states.square().sum().backward()
        return [states, *(parameter.grad.clone() for parameter in backbone.parameters())]

    for found, wanted in zip(run(2), run(64), strict=True):
        assert (found - wanted).abs().max() <= 1e-5


def test_absent_text_gives_zeros_and_finite_gradients(folder):
    backbone = TextEncoder(folder, fine_tune=True).build()
    ids, mask = TextEncoder(folder).tokens(TEXTS)
    mask[1] = False
    states = backbone(ids, mask)
    assert states[1].eq(0).all() and states.isfinite().all()
    states.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())


def test_frozen_stays_in_evaluation_mode_without_gradients(folder):
    parent = torch.nn.Sequential(TextBackbone(TextEncoder(folder)), torch.nn.Linear(16, 1)).train()
    backbone = parent[0]
    assert parent[1].training and not any(module.training for module in backbone.encoder.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    ids, mask = TextEncoder(folder).tokens(TEXTS)
    assert not backbone(ids, mask).requires_grad
    assert torch.equal(backbone(ids, mask), backbone(ids, mask))


def test_fine_tuned_trains_every_parameter(folder):
    backbone = TextEncoder(folder, fine_tune=True).build().train()
    assert backbone.encoder.training
    backbone(*TextEncoder(folder).tokens(TEXTS)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert not backbone.eval().encoder.training


def test_copies_and_state_dict_carry_the_weights(folder):
    backbone = TextEncoder(folder).build()
    ids, mask = TextEncoder(folder).tokens(TEXTS)
    other = copy.deepcopy(backbone)
    torch.nn.init.normal_(next(other.parameters()))
    assert other.fingerprint() != backbone.fingerprint()
    other.load_state_dict(backbone.state_dict())
    assert other.fingerprint() == backbone.fingerprint()
    assert torch.equal(other(ids, mask), backbone(ids, mask))


def test_encode_gives_each_text_its_own_states_in_the_given_order(folder, monkeypatch):
    monkeypatch.setattr(text, "LIKE_LENGTH", 2)
    encoder = TextEncoder(folder, fine_tune=True)
    states, mask = encode(encoder, TEXTS)
    assert states.shape == (3, 7, 16) and states.dtype == torch.float32 and not states.requires_grad
    backbone = TextEncoder(folder).build()
    for row, words in enumerate(TEXTS):
        alone = backbone(*encoder.tokens([words]))[0]
        assert (states[row, : len(alone)] - alone).abs().max() <= 1e-5
        assert states[row, len(alone) :].eq(0).all() and mask[row].sum() == len(alone)


def test_wrong_name_is_a_one_line_error(tmp_path):
    for name in (str(tmp_path / "nowhere"), "nobody/no-such-encoder"):
        for attempt in (TextEncoder(name).build, lambda name=name: TextEncoder(name).tokens(TEXTS)):
            with pytest.raises(ValueError, match="text encoder: wanted .* got") as caught:
                attempt()
            assert name in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_length_is_an_error():
    with pytest.raises(ValueError, match="max_length: wanted at least 1 token, got 0"):
        TextEncoder("any", max_length=0)


def test_missing_library_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install decalign-core\[text\]"):
        TextEncoder(folder).build()


def test_loading_is_silent_and_leaves_the_library_s_settings(folder, capfd):
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    TextEncoder(folder).build()
    assert capfd.readouterr() == ("", "")
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before
