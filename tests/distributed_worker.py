"""What each process of tests/lab/test_distributed.py runs: ``python distributed_worker.py TASK FILE``."""

import sys
from dataclasses import replace

import torch

from decalign_core.data.synthetic import SyntheticConfig, generate
from decalign_core.lab.distributed import Group, processes
from decalign_core.lab.experiment import configure
from decalign_core.lab.training import Trainer

NO_DROPOUT = {
    **{f"model.{name}_dropout": 0.0 for name in ("input", "attention", "feedforward", "residual", "embedding")},
    "model.output_dropout": 0.0,
}
SMALL = {
    "model.width": 8,
    "model.heads": 2,
    "objective.components": 3,
    "training.device": "cpu",
    "training.batch_size": 16,
    "training.average": 0.0,
    "training.learning_rate": 1e-12,  # Adam would make a sign of what is rounding
}
PEER = {f"peer.{name}": 0.0 for name in ("input_dropout", "output_dropout", "dropout")}


def splits():
    made = generate(SyntheticConfig(samples=(43, 20, 20), seed=3))

    def double(batch):
        features = {name: values.double() for name, values in batch.features.items()}
        return replace(batch, features=features, target=batch.target.double())

    return replace(made, **{name: double(batch) for name, batch in made.items()})


def gradients(group: Group, method: str) -> list:
    """Gradients of the first three batches of an epoch, the last one uneven, in float64 and without dropout."""
    settings = SMALL | (NO_DROPOUT if method == "decalign" else {"method": method} | PEER)
    trainer = Trainer(configure(settings), splits(), torch.device("cpu"), group)
    trainer.model.double().train()
    found = []
    for rows in torch.randperm(43, generator=torch.Generator().manual_seed(1)).split(16):
        trainer.step(rows)
        found.append([p.grad.clone() for p in trainer.model.parameters() if p.grad is not None])
    return found


def main(task: str, file: str) -> None:
    torch.set_num_threads(1)
    with processes() as group:
        if task == "die" and group.rank == 1:
            raise SystemExit("process 1 dies")
        found = gradients(group, "decalign" if task == "die" else task)
        if group.leads:
            torch.save(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
