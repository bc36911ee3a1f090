"""Batches: cut by lengths that the host knows, gathered where the split lives, or put together ahead; and buckets."""

import pytest
import torch

from decalign_core.lab import feeding
from decalign_core.lab.experiment import configure
from decalign_core.lab.feeding import Feed, bucketed, fits, padding_share
from decalign_core.lab.training import Trainer, load_splits
from decalign_core.types import Batch

CPU, META = torch.device("cpu"), torch.device("meta")


def split(samples=23, seed=0):
    """Two modalities, one of token ids; gaps between valid frames, and samples that lack a modality."""
    generator = torch.Generator().manual_seed(seed)
    masks = {
        "near": torch.arange(9) < torch.randint(1, 10, (samples, 1), generator=generator),
        "far": torch.rand(samples, 14, generator=generator) < 0.2,
    }
    masks["far"][3] = False
    features = {
        "near": torch.randn(samples, 9, 4, generator=generator),
        "far": torch.randint(0, 9, (samples, 14), generator=generator),
    }
    ids = [f"v$_${row}" for row in range(samples)]
    return Batch(features, masks, torch.randn(samples, generator=generator), ids, {"own": torch.arange(samples)})


def assert_same(one, other):
    assert list(one.ids) == list(other.ids) and one.is_trimmed == other.is_trimmed
    assert torch.equal(one.target, other.target)
    for field in ("features", "masks", "extra_targets"):
        mine, theirs = getattr(one, field), getattr(other, field)
        assert list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)
    rows = [
        {name: held if held is None else held.tolist() for name, held in batch.present.items()}
        for batch in (one, other)
    ]
    assert rows[0] == rows[1]


ROWS = [torch.tensor([5, 0, 22, 5]), torch.tensor([3]), torch.arange(23)]


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_are_those_of_the_plain_path(ahead):
    whole = split()
    feed = Feed(whole, CPU)
    assert not feed.resides and not feed.ahead and feed.split is whole
    feed.ahead = ahead
    found = list(feed.batches(ROWS))
    assert [rows.tolist() for rows, _ in found] == [rows.tolist() for rows in ROWS]
    for rows, batch in found:
        assert_same(batch, whole[rows].trimmed())
    assert list(feed.batches([])) == []


def test_an_error_ahead_is_an_error():
    feed = Feed(split(), CPU)
    feed.ahead = True
    with pytest.raises(IndexError):
        list(feed.batches([torch.tensor([0]), torch.tensor([99])]))


def test_the_next_batch_is_put_together_while_one_is_used(monkeypatch):
    feed, asked = Feed(split(), CPU), []
    feed.ahead = True
    monkeypatch.setattr(Feed, "__getitem__", lambda self, rows: asked.append(int(rows[0])))
    batches = feed.batches([torch.tensor([row]) for row in range(4)])
    next(batches)
    batches.close()  # waits for the worker
    assert asked == [0, 1]


def test_a_split_lives_where_it_fits():
    whole = split()
    size = 23 * (9 * 4 * 4 + 14 * 8 + 9 + 14 + 4 + 8)
    assert fits(whole, 2 * size) and not fits(whole, 2 * size - 1)
    for free, resides in ((2 * size, True), (2 * size - 1, False)):
        feed = Feed(whole, META, free)
        assert (feed.resides, feed.ahead) == (resides, not resides)
        assert feed.split.target.device == (META if resides else CPU)
        for rows, batch in feed.batches(ROWS):  # a meta tensor has no values: lengths that were read from it would fail
            assert batch.target.device == META and batch.is_trimmed
            wanted = whole[rows].trimmed()
            assert {name: x.shape for name, x in batch.features.items()} == {
                name: x.shape for name, x in wanted.features.items()
            }


def test_memory_of_a_device_that_does_not_tell():
    assert feeding.free_memory(META) == 0 and not Feed(split(), META).resides


# --- buckets ---


def lengths_of(samples, modalities, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, 51, (samples, modalities), generator=generator)


@pytest.mark.parametrize(("samples", "size"), [(1000, 32), (64, 32), (31, 32), (33, 32), (5, 1)])
@pytest.mark.parametrize("modalities", [1, 3])
def test_every_row_is_in_one_batch_and_as_many_batches_as_without(samples, size, modalities):
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(1))
    parts = bucketed(order, size, lengths_of(samples, modalities))
    assert torch.cat(parts).sort().values.tolist() == list(range(samples))
    assert [len(part) for part in parts] == [len(part) for part in order.split(size)]
    if samples % size:
        assert torch.equal(parts[-1], order.split(size)[-1])


def test_padding_by_hand():
    lengths = torch.tensor([[4, 1], [2, 1], [0, 3]])
    assert padding_share([torch.tensor([0, 1]), torch.tensor([2])], lengths) == pytest.approx(1 - 11 / (2 * 5 + 4))


def test_buckets_leave_little_padding():
    order = torch.randperm(4096)
    for lengths in (lengths_of(4096, 1), lengths_of(4096, 1).expand(-1, 3)):  # one modality, and aligned ones
        assert padding_share(order.split(32), lengths) > 0.4
        assert padding_share(bucketed(order, 32, lengths), lengths) < 0.05
    apart = lengths_of(4096, 3)
    assert padding_share(bucketed(order, 32, apart), apart) < 0.6 * padding_share(order.split(32), apart)


def test_another_order_makes_other_batches_of_the_same_lengths():
    lengths = lengths_of(640, 1)
    one, other = (bucketed(torch.randperm(640), 32, lengths) for _ in range(2))
    assert any(set(a.tolist()) != set(b.tolist()) for a, b in zip(one, other, strict=True))
    assert [lengths[a].sort(dim=0).values.tolist() for a in one] == [
        lengths[b].sort(dim=0).values.tolist() for b in other
    ]


SMALL = {
    "model.width": 8,
    "model.heads": 2,
    "model.layers": 1,
    "objective.em_steps": 1,
    "objective.sinkhorn_iterations": 3,
    "training.batch_size": 100,
    "training.device": "cpu",
}


def trainer(**changes):
    config = configure(SMALL | changes)
    torch.manual_seed(0)
    return Trainer(config, load_splits(config), CPU)


def test_buckets_are_off_unless_asked_for_and_follow_the_seed():
    plain = trainer()
    order = torch.Generator()
    order.set_state(plain.order.get_state())
    rows = torch.randperm(len(plain.splits.train), generator=order).split(100)
    assert all(torch.equal(a, b) for a, b in zip(plain.parts(), rows, strict=True))
    one, same, other = (trainer(**{"training.bucketed": True, "training.seed": seed}).parts() for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_buckets_change_nothing_but_which_samples_meet(monkeypatch):
    """The same batches, drawn either way: the same losses and weights, bit for bit."""
    with_buckets, without = trainer(**{"training.bucketed": True}), trainer()
    parts = with_buckets.parts()
    histories = []
    for each in (with_buckets, without):
        monkeypatch.setattr(each, "parts", lambda: parts)
        torch.manual_seed(5)  # dropout
        each.run_epoch()
        histories.append({name: value for name, value in each.history[0].items() if name != "seconds"})
    assert histories[0] == histories[1]
    weights = zip(with_buckets.model.parameters(), without.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
