"""IEMOCAP from GCNet: its features become a file that loads, and every defect of them is told."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from refusals import mmsa_fixtures as fixtures

from decalign_core.data.gcnet import iemocap_from_gcnet
from decalign_core.data.mmsa import load_mmsa
from decalign_core.data.pickles import DataError


@pytest.fixture
def gcnet(tmp_path):
    stored = fixtures.gcnet_folder(tmp_path / "features")
    (tmp_path / "labels.pkl").write_bytes(fixtures.gcnet_labels()[1])
    return tmp_path, stored


def convert(root, **options):
    return iemocap_from_gcnet(root / "features", root / "labels.pkl", root / "data/IEMOCAP/iemocap_data.pkl", **options)


def test_gcnet_features_become_a_file_that_loads(gcnet):
    root, stored = gcnet
    counts = convert(root, valid_fraction=0.25, seed=1)
    splits = load_mmsa("iemocap", root / "data")
    assert counts == {split: len(batch) for split, batch in splits.items()}
    assert sum(counts.values()) == 10 and counts["test"] == 2
    assert splits.modalities == {"text": 6, "audio": 4, "vision": 5}
    labels = {
        f"{d}_{who}{i:03d}": fixtures.GCNET[d][1][i]
        for d in fixtures.GCNET
        for i, who in enumerate(fixtures.GCNET[d][0])
    }
    for _, batch in splits.items():
        for row, name in enumerate(batch.ids):
            utterance = name.split("$_$")[1]
            assert batch.target[row] == labels[utterance]
            assert np.allclose(batch.features["audio"][row, 0], stored["audio"][utterance])
            faces = stored["vision"][utterance]
            assert batch.masks["vision"][row, 0].item() == bool(len(faces))
            wanted = faces.mean(axis=0) if len(faces) else np.zeros(5)
            assert np.allclose(batch.features["vision"][row, 0], wanted, atol=1e-6)


def test_the_validation_split_takes_whole_training_dialogues(gcnet):
    root, _ = gcnet
    drawn = set()
    for seed in range(8):
        convert(root, seed=seed)
        splits = load_mmsa("iemocap", root / "data")
        dialogues = {split: {name.split("$_$")[0] for name in batch.ids} for split, batch in splits.items()}
        assert dialogues["test"] == fixtures.GCNET_TEST
        assert len(dialogues["valid"]) == 1 and len(dialogues["train"]) == 3
        assert not dialogues["valid"] & (dialogues["train"] | dialogues["test"])
        drawn |= dialogues["valid"]
    assert len(drawn) > 1
    convert(root, seed=0)
    first = load_mmsa("iemocap", root / "data").fingerprint()
    convert(root, seed=0)
    assert load_mmsa("iemocap", root / "data").fingerprint() == first


def test_faces_in_a_folder_are_those_of_the_speaker(gcnet):
    root, _ = gcnet
    folder = root / "features/manet_UTT/Ses05F_impro01_M001"
    folder.with_suffix(".npy").unlink()
    folder.mkdir()
    for face, value in {"F_0001": 1.0, "M_0001": 2.0, "M_0002": 4.0}.items():
        np.save(folder / f"{face}.npy", np.full(5, value))
    convert(root)
    batch = load_mmsa("iemocap", root / "data").test
    row = list(batch.ids).index("Ses05F_impro01$_$Ses05F_impro01_M001")
    assert batch.features["vision"][row, 0].tolist() == [3.0] * 5


def test_gcnet_defects_name_the_file_and_leave_no_output(gcnet):
    root, _ = gcnet
    missing = root / "features/wav2vec-large-c-UTT/Ses01F_impro01_F000.npy"
    kept = np.load(missing)
    missing.unlink()
    with pytest.raises(DataError, match="Ses01F_impro01_F000.npy: wanted a NumPy array, got FileNotFoundError"):
        convert(root)
    np.save(missing, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Ses01F_impro01_F000.npy: wanted a NumPy array, got ValueError"):
        convert(root)
    np.save(missing, np.zeros(0))
    with pytest.raises(DataError, match="Ses01F_impro01_F000.npy: wanted a feature vector, got an empty array"):
        convert(root)
    np.save(missing, np.zeros(9))
    with pytest.raises(DataError, match="wanted 9 columns as before, got 4"):
        convert(root)
    assert not (root / "data").exists()
    np.save(missing, kept)
    assert sum(convert(root).values()) == 10


def test_gcnet_label_file_defects(gcnet):
    root, _ = gcnet
    tree, _ = fixtures.gcnet_labels()
    with pytest.raises(ValueError, match="valid_fraction: wanted a number between 0 and 1, got 1"):
        convert(root, valid_fraction=1)
    wrong = [
        (tree[:5], "labels.pkl: wanted the tuple .* got tuple of 5"),
        ((*tree[:4], tree[4] | tree[5], tree[5]), "got 5 and 1, 1 in both"),
        ((tree[0], tree[1] | {"Ses01F_impro01": [9, 9]}, *tree[2:]), "'Ses01F_impro01': wanted classes 0 … 5, got 9"),
        ((tree[0], tree[1] | {"Ses01F_impro01": [0]}, *tree[2:]), r"'Ses01F_impro01': wanted ids.*\[2, 1, 2, 2\]"),
        ((*tree[:4], tree[4], "Ses05"), "as four dicts and two sets"),
        ((tree[0] | {"Ses01F_impro01": ["/a", "b"]}, *tree[1:]), "wanted utterance ids that name a file, got '/a'"),
    ]
    for content, message in wrong:
        (root / "labels.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=message):
            convert(root)
