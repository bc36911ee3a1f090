"""The public CMU-MOSI: the join on the real files where they lie beside the repository, the loader on planted ones."""

import csv
import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from decalign_core.data import load
from decalign_core.data.mosi_public import SHA256, convert, hashed_words, load_mosi_public
from decalign_core.data.pickles import DataError
from decalign_core.nn.text import TextEncoder

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mosi_public"
real = pytest.mark.skipif(
    not SOURCE.is_dir(), reason="the two repositories' files are not at ../shared/data/mosi_public"
)
DATA = SOURCE / "bc-lstm" / "data"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The data root with the real files, and what the converter counted."""
    root = tmp_path_factory.mktemp("real")
    return root, convert(SOURCE, root)


@pytest.fixture(scope="module")
def table(converted):
    return pd.read_csv(converted[0] / "MOSI-public" / "utterances.csv", keep_default_na=False)


@pytest.fixture
def planted(tmp_path):
    """A data root of the converter's format: 31 unseen videos and 9 seen ones, two utterances each."""
    rng = np.random.default_rng(0)
    videos = [f"v{number:02d}" for number in range(40) for _ in range(2)]
    table = pd.DataFrame({"id": [f"{video}$_${row % 2}" for row, video in enumerate(videos)], "video": videos})
    table["clip"] = np.arange(len(table)) % 2
    table["transcript"] = ["IT WAS A GOOD FILM" if row % 4 else "BAD" for row in range(len(table))]
    table["score"] = rng.uniform(-3, 3, len(table)).round(1)
    table["split"] = [("train", "valid", "test")[row % 3] for row in range(len(table))]
    table["seen"] = [int(video[1:]) >= 31 for video in videos]
    folder = tmp_path / "MOSI-public"
    folder.mkdir()
    table.to_csv(folder / "utterances.csv", index=False)
    arrays = {"text_cnn": 100, "audio": 73, "vision": 100}
    np.savez(folder / "features.npz", **{m: 5 + rng.normal(size=(80, width)) for m, width in arrays.items()})
    return tmp_path


def videos_of(batch):
    return {utterance.split("$_$")[0] for utterance in batch.ids}


# ---------------------------------------------------------------- the real files


@real
def test_counts(converted):
    assert converted[1] == {
        "utterances": 2199,
        "videos": 93,
        "standard_train": 1284,
        "standard_valid": 229,
        "standard_test": 686,
        "unseen": 752,
        "unseen_videos": 31,
        "unseen_train": 465,
        "unseen_valid": 83,
        "unseen_test": 204,
    }


@real
def test_every_utterance_is_there_once_with_a_score(table):
    assert len(table) == 2199 and table["id"].is_unique
    assert table["score"].between(-3, 3).all() and (table["transcript"].str.len() > 0).all()
    assert (table["id"] == table["video"] + "$_$" + table["clip"].astype(str)).all()
    assert table.groupby("video")["split"].nunique().max() == 1


@real
def test_scores_agree_in_sign_with_the_label_that_the_join_did_not_use(table):
    raw = pd.read_csv(DATA / "transcripts.csv", header=None)
    assert (raw[0] == table["video"] + "_" + table["clip"].astype(str)).all()
    assert ((table["score"] >= 0) == (raw[3] == 1)).all()


@real
@pytest.mark.parametrize(
    ("utterance", "transcript", "score", "split"),
    [
        ("d6hH302o4v8$_$27", "I HATED IT", -2.6, "test"),
        ("d6hH302o4v8$_$34", "I HATED IT", -3.0, "test"),
        ("bOL9jKpeJRs$_$24", "SO IT WAS JUST A LITTLE AWKWARD", -1.0, "valid"),
        ("bOL9jKpeJRs$_$25", "SO IT WAS JUST A LITTLE AWKWARD", -0.6, "valid"),
        ("03bSnISJMiM$_$11", "A LOT OF SAD PARTS", -0.5, "train"),
    ],
)
def test_single_utterances(table, utterance, transcript, score, split):
    row = table.set_index("id").loc[utterance]
    assert (row["transcript"], row["score"], row["split"]) == (transcript, score, split)


@real
def test_texts_said_twice_stand_between_their_neighbours(table):
    """In the split file, ... 26 27(first) 20 ... and ... 35 34(second) 33 ..."""
    with open(SOURCE / "cm-bert/data/text/test.tsv", encoding="utf-8") as file:
        lines = [" ".join(line[0].split()) for line in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    clips = table[table["video"] == "d6hH302o4v8"].set_index("transcript")["clip"]
    places = [place for place, text in enumerate(lines) if text == "I HATED IT"]
    assert [[clips[lines[place + step]] for step in (-1, 1)] for place in places] == [[26, 20], [35, 33]]


@real
@pytest.mark.parametrize(("part", "line"), [("train", 0), ("train", 1000), ("test", 0), ("test", 751)])
def test_features_stand_in_the_row_of_their_utterance(converted, table, part, line):
    words, audio, vision = (
        np.array(list(csv.reader((DATA / name).read_text().splitlines()))[line], float)
        for name in (f"text_{part}.csv", f"audio/audio_{part}0.csv", f"video/video_{part}0.csv")
    )
    row = int(words[0])
    with np.load(converted[0] / "MOSI-public" / "features.npz") as arrays:
        assert {name: values.shape for name, values in arrays.items()} == {
            "text_cnn": (2199, 100),
            "audio": (2199, 73),
            "vision": (2199, 100),
        }
        for name, wanted in {"text_cnn": words[1:], "audio": audio[:-1], "vision": vision[:-1]}.items():
            assert np.array_equal(arrays[name][row], wanted.astype(np.float32))
    assert table["seen"][row] == (part == "train")
    assert audio[-1] == vision[-1] == (table["score"][row] >= 0)


@real
def test_unseen_holds_no_utterance_that_trained_the_features(converted, table):
    rows = pd.read_csv(DATA / "text_train.csv", header=None)[0]
    splits = load_mosi_public(converted[0])
    ids = [utterance for _, batch in splits.items() for utterance in batch.ids]
    assert len(ids) == len(set(ids)) == 752
    assert not set(ids) & set(table["id"][rows])
    assert not videos_of(splits.train) & videos_of(splits.test) | videos_of(splits.valid) & videos_of(splits.test)
    assert [len(videos_of(batch)) for _, batch in splits.items()] == [21, 3, 7]
    assert [len(batch) for _, batch in splits.items()] == [465, 83, 204]
    order = np.random.RandomState(0).permutation(sorted(set(table["video"][~table["seen"]])))
    assert videos_of(splits.test) == set(order[-7:]) and videos_of(splits.train) == set(order[:21])


@real
def test_standard_is_the_standard_split_without_leaking_features(converted):
    splits = load_mosi_public(converted[0], protocol="standard")
    assert [len(batch) for _, batch in splits.items()] == [1284, 229, 686]
    assert splits.name == "mosi_public/standard-hashed" and set(splits.modalities) == {"text", "audio"}
    assert splits.train.features["audio"].mean(dim=0).abs().max() < 1e-4
    wanted, mask = hashed_words(["A LOT OF SAD PARTS"])
    place = list(splits.train.ids).index("03bSnISJMiM$_$11")
    assert splits.train.masks["text"][place].sum() == mask.sum() == 5
    assert torch.equal(splits.train.features["text"][place, :5], wanted[0])


@real
def test_ridge_on_unseen_reaches_the_known_error(converted):
    """Measured apart from this package on the same files: 0.871 by ridge regression on the text alone."""
    splits = load_mosi_public(converted[0], modalities=["text"])
    x, y = splits.train.features["text"][:, 0].double(), splits.train.target.double()
    weights = torch.linalg.solve(x.T @ x + 1000 * torch.eye(100), x.T @ (y - y.mean()))
    prediction = splits.test.features["text"][:, 0].double() @ weights + y.mean()
    assert (prediction - splits.test.target).abs().mean().item() == pytest.approx(0.871, abs=0.002)


@real
def test_an_altered_file_is_refused(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "source", copy_function=shutil.copyfile)
    path = tmp_path / "source/cm-bert/data/text/dev.tsv"
    path.write_bytes(path.read_bytes().replace(b"-0.6", b"-0.7"))
    with pytest.raises(
        DataError, match=f"dev.tsv: wanted .*3e44dce, sha256 {SHA256['cm-bert/data/text/dev.tsv']}, got"
    ):
        convert(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@real
def test_converting_again_gives_the_same_bytes_and_leaves_nothing_behind(converted, tmp_path):
    convert(SOURCE, tmp_path)
    names = sorted(path.name for path in (tmp_path / "MOSI-public").iterdir())
    assert names == ["features.npz", "utterances.csv"]
    for name in names:
        assert (tmp_path / "MOSI-public" / name).read_bytes() == (converted[0] / "MOSI-public" / name).read_bytes()


# ---------------------------------------------------------------- no files needed


def test_a_missing_file_names_both_repositories(tmp_path):
    with pytest.raises(DataError) as caught:
        convert(tmp_path, tmp_path / "out")
    message = str(caught.value)
    assert "transcripts.csv" in message and "\n" not in message
    for wanted in ("soujanyaporia/contextual-utterance-level-multimodal-sentiment-analysis", "thuiar/Cross-Modal-BERT"):
        assert f"git clone https://github.com/{wanted} " in message
    assert "checkout f1199e6" in message and "checkout 3e44dce" in message


def test_files_that_are_not_converted_name_the_command(tmp_path):
    with pytest.raises(DataError, match="python -m decalign_core data mosi-public --source .* --out"):
        load_mosi_public(tmp_path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"protocol": "random"}, "protocol: wanted one of 'unseen', 'standard', got 'random'"),
        ({"fold": 5}, "fold: wanted None or a number from 0 to 4, got 5"),
        ({"protocol": "standard", "fold": 0}, "fold: wanted None, .* got 0"),
        ({"protocol": "standard", "modalities": ["vision"]}, r"wanted some of \('text', 'audio'\) .* got \['vision'\]"),
        ({"modalities": []}, "modalities: wanted some of"),
        ({"protocol": "standard", "hash_width": 0}, "hash_width: wanted at least 1 column, got 0"),
    ],
)
def test_wrong_options_are_named(planted, options, error):
    with pytest.raises(ValueError, match=error):
        load_mosi_public(planted, **options)


def test_what_the_protocol_has_may_be_named_and_not_kept(planted):
    kept = load("mosi_public", planted, modalities=["text"], standardise=["audio"])
    assert kept.fingerprint() == load_mosi_public(planted, modalities=["text"]).fingerprint()
    for protocol, name, there in (("unseen", "smell", "text, audio, vision"), ("standard", "vision", "text, audio")):
        with pytest.raises(ValueError, match=f"^standardise: wanted some of {there}, got {name}$"):
            load("mosi_public", planted, protocol, modalities=["text"], standardise=[name])


def test_files_that_do_not_fit_together_are_refused(planted):
    path = planted / "MOSI-public" / "features.npz"
    np.savez(path, text_cnn=np.zeros((80, 2)), audio=np.zeros((79, 2)), vision=np.zeros((80, 2)))
    with pytest.raises(DataError, match="wanted 80 rows of audio, .* got 79"):
        load_mosi_public(planted)
    path.write_bytes(b"PK, cut off")
    with pytest.raises(DataError, match="wanted the arrays text_cnn, audio, vision"):
        load_mosi_public(planted)


def test_unseen_splits_are_standardised_on_the_training_split(planted):
    splits = load_mosi_public(planted)
    assert splits.name == "mosi_public/unseen" and (splits.task, splits.scale, splits.outputs) == (
        "regression",
        "mosi",
        1,
    )
    assert splits.modalities == {"text": 100, "audio": 73, "vision": 100}
    for values in splits.train.features.values():
        assert values.dtype == torch.float32 and values.shape[1] == 1
        assert values.mean(dim=0).abs().max() < 1e-5 and (values.std(dim=0, correction=0) - 1).abs().max() < 1e-4
    assert list(load_mosi_public(planted, modalities=["audio"]).modalities) == ["audio"]


def test_folds_partition_the_unseen_videos(planted):
    folds = [load_mosi_public(planted, fold=fold) for fold in range(5)]
    order = np.random.RandomState(0).permutation([f"v{number:02d}" for number in range(31)])
    for number, splits in enumerate(folds):
        assert splits.name == "mosi_public/unseen"
        assert videos_of(splits.test) == set(order[number::5])
        assert videos_of(splits.valid) == videos_of(folds[(number + 1) % 5].test)
        assert set.union(*(videos_of(batch) for _, batch in splits.items())) == set(order)
        assert sum(len(batch) for _, batch in splits.items()) == 62
    for one, other in itertools.combinations(folds, 2):
        assert not videos_of(one.test) & videos_of(other.test)


def test_hashed_words_are_the_same_on_every_machine():
    values, mask = hashed_words(["Good film!", "GOOD", ""], 4)
    assert values.shape == (3, 2, 4) and mask.tolist() == [[True, True], [True, False], [False, False]]
    assert torch.equal(values[0, 0], values[1, 0]) and not torch.equal(values[0, 0], values[0, 1])
    assert values[1, 1].eq(0).all() and values[2].eq(0).all()
    assert values[0, 0].tolist() == pytest.approx([0.5015004, -1.0451709, -0.5334842, -0.7323510], abs=1e-6)
    assert hashed_words(["word " * 80])[0].shape == (1, 50, 768)


def test_hashed_words_are_standard_normal():
    values, mask = hashed_words([" ".join(f"word{number}" for number in range(50))], 200)
    assert values[mask].mean().abs() < 0.03 and (values[mask].std() - 1).abs() < 0.03


# ---------------------------------------------------------------- text encoders


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="the optional extra decalign-core[text] is not installed")
    path = tmp_path_factory.mktemp("tiny-bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "it", "was"]
    (path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizerFast(str(path / "vocab.txt"), do_lower_case=False).save_pretrained(path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("protocol", "others"), [("unseen", {"audio": 73, "vision": 100}), ("standard", {"audio": 73})]
)
def test_frozen_encoder_gives_states(planted, encoder_folder, protocol, others):
    splits = load_mosi_public(planted, protocol=protocol, encoder=TextEncoder(str(encoder_folder)))
    assert splits.name == f"mosi_public/{protocol}-frozen" and not splits.encoders
    assert splits.modalities == {"text": 16} | others
    values, mask = splits.train.features["text"], splits.train.masks["text"]
    assert values.dtype == torch.float32 and values.shape[1] == 7
    assert set(mask.sum(dim=1).tolist()) == {3, 7} and values[~mask].eq(0).all()


def test_fine_tuned_encoder_gets_token_ids(planted, encoder_folder):
    encoder = TextEncoder(str(encoder_folder), fine_tune=True)
    splits = load_mosi_public(planted, protocol="standard", encoder=encoder)
    assert splits.name == "mosi_public/standard-finetuned" and splits.modalities["text"] == encoder
    ids = splits.train.features["text"]
    assert ids.dtype == torch.int64 and not (ids == 1).any()  # no unknown word: the capitals were lowered


def test_states_are_cached_and_never_stale(planted, encoder_folder, tmp_path, monkeypatch):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    encoder = TextEncoder(str(folder))
    first = load_mosi_public(planted, encoder=encoder)
    with monkeypatch.context() as patch:
        patch.setattr("decalign_core.data.mosi_public.encode", lambda *_: pytest.fail("not read from the cache"))
        assert load_mosi_public(planted, encoder=encoder).fingerprint() == first.fingerprint()
    from transformers import BertModel

    model = BertModel.from_pretrained(folder)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(folder)
    assert load_mosi_public(planted, encoder=encoder).fingerprint() != first.fingerprint()
    shorter = load_mosi_public(planted, encoder=TextEncoder(str(folder), max_length=4))
    assert shorter.train.features["text"].shape[1] == 4
    assert len(list((planted / "MOSI-public").glob("states-*.npy"))) == 3


def test_an_encoder_without_its_modality_is_left_alone(planted):
    splits = load_mosi_public(
        planted, encoder=TextEncoder("nobody/none", fine_tune=True), modalities=["audio", "vision"]
    )
    assert not splits.encoders and list(splits.modalities) == ["audio", "vision"]
