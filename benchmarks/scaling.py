"""Where the time of a step goes, how it grows, and what each optimisation brought; on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import problems
from benchmarks.problems import FRAMES, SAMPLES, WIDTH, Options
from benchmarks.timing import paired
from decalign_core.alignment.many import chain, complete, pair_costs, sampled, tree
from decalign_core.alignment.matching import mmd
from decalign_core.alignment.mixture import GaussianMixture, e_step, fit, m_step
from decalign_core.alignment.transport import _log_round, _log_rounds, _scaled_rounds, joint_cost, sinkhorn
from decalign_core.lab.training import Trainer
from decalign_core.nn.attention import attention
from decalign_core.nn.dropout import dropout
from decalign_core.nn.transformer import CrossModalTransformer
from decalign_core.objective import contrastive, decoupling, heterogeneity, homogeneity, task_loss
from decalign_core.types import Representation

Call = Callable[[], object]


# --- where the time goes ---------------------------------------------------------------------------------------------


def profile(options: Options) -> pd.DataFrame:
    """Milliseconds of each part of a step at the official configuration, with real lengths and with full ones."""
    generator = torch.Generator().manual_seed(0)
    tables = []
    for name, frames in problems.lengths(generator).items():
        trainer = problems.trainer(problems.batch(frames, generator))
        rounds = pd.DataFrame([_parts(trainer) for _ in range(options.rounds + 1)])[1:]
        table = pd.DataFrame({"part": rounds.columns, "median_ms": rounds.median().to_numpy()})
        tables.append(table.assign(case=name))
    return pd.concat(tables)


class _Clock:
    """Milliseconds by part; parts do not overlap."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + 1e3 * (time.perf_counter() - began)

    @contextmanager
    def modules(self, named: Mapping[str, nn.Module]) -> Iterator[None]:
        """Adds what each module's forward pass takes to its part."""
        began: dict[nn.Module, float] = {}

        def after(module: nn.Module, *_: object, name: str) -> None:
            self.spent[name] = self.spent.get(name, 0.0) + 1e3 * (time.perf_counter() - began[module])

        def before(module: nn.Module, *_: object) -> None:
            began[module] = time.perf_counter()

        hooks = [module.register_forward_pre_hook(before) for module in named.values()]
        for name, module in named.items():
            hooks.append(module.register_forward_hook(partial(after, name=name.split("/")[0])))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _parts(trainer: Trainer) -> dict[str, float]:
    clock, model, config = _Clock(), trainer.model, trainer.config.objective
    named = {f"transformers/{name}": module for name, module in model.transformers.items()}
    named |= {f"projections/{name}": module for name, module in model.projections.items()}
    began = time.perf_counter()
    with clock.part("batch"):
        batch = trainer.feed[torch.arange(SAMPLES)]
    with clock.part("rest of the model"), clock.modules(named):
        found = model(batch)
    clock.spent["rest of the model"] -= clock.spent["transformers"] + clock.spent["projections"]
    apart, leaves = _apart(found)
    terms: dict[str, Tensor] = {}
    with clock.part("task and contrast"):
        terms["task"] = task_loss(apart.prediction, batch.target, config)
        terms["contrast"] = config.contrastive_weight * contrastive(apart.fused, batch.target)
    with clock.part("decoupling"):
        terms["decoupling"] = decoupling(apart.unique, apart.common, masks=apart.masks)
    with clock.part("EM, transport, prototypes"):
        hete = heterogeneity(apart.pooled_unique, config)
        terms["hete"] = config.alpha * (hete.transport + hete.prototype)
    with clock.part("moments, MMD"):
        homo = homogeneity(apart.latent, config)
        terms["homo"] = config.beta * (homo.semantic + homo.mmd)
    with clock.part("backward of the losses"):
        sum(terms.values()).backward()
    trainer.optimiser.zero_grad()
    reached = [(x, leaf.grad) for x, leaf in leaves if leaf.grad is not None]
    with clock.part("backward of the model"):
        torch.autograd.backward(*zip(*reached, strict=True))
    with clock.part("clipping, optimiser"):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimiser.step()
    clock.spent["everything"] = 1e3 * (time.perf_counter() - began)
    return clock.spent


def _apart(found: Representation) -> tuple[Representation, list[tuple[Tensor, Tensor]]]:
    """The representation cut off from the model, and what the model made beside what stands for it."""
    leaves: list[tuple[Tensor, Tensor]] = []

    def cut(value: Tensor | Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        if isinstance(value, Mapping):
            return {name: cut(tensor) for name, tensor in value.items()}
        if not value.requires_grad:
            return value
        leaves.append((value, value.detach().requires_grad_()))
        return leaves[-1][1]

    return Representation(**{field.name: cut(getattr(found, field.name)) for field in fields(found)}), leaves


# --- growth ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """How a part is said to grow: ``work`` operations, up to a constant, of ``make``'s call at each of ``values``."""

    what: str
    variable: str
    law: str
    values: tuple[int, ...]
    work: Callable[[int], float]
    make: Callable[[int], Call]


def growth(options: Options) -> pd.DataFrame:
    """Median times of parts over B, T, d, K, M and R, each variable alone, beside the operations that theory counts."""
    tables = []
    for law in LAWS:
        calls = {str(value): law.make(value) for value in law.values}
        table = paired(calls, rounds=max(3, options.rounds // 3))[["what", "median_ms"]]
        table = (
            table.rename(columns={"what": "value"})
            .astype({"value": int})
            .assign(what=law.what, variable=law.variable, law=law.law)
        )
        table["work"] = [float(law.work(value)) for value in law.values]
        tables.append(table)
    return pd.concat(tables)[["what", "variable", "law", "value", "work", "median_ms"]]


def _step(samples: int = SAMPLES, frames: int = FRAMES) -> Call:
    generator = torch.Generator().manual_seed(0)
    trainer = problems.trainer(problems.batch(torch.full((samples,), frames), generator, frames))
    rows = torch.arange(samples)
    return lambda: trainer.step(rows)


def _attend(frames: int) -> Call:
    query, key, value = (torch.randn(8, 8, frames, 8).requires_grad_() for _ in range(3))
    mask = torch.ones(8, frames, dtype=torch.bool)
    return lambda: attention(query, key, value, mask).sum().backward()


def _layer(width: int) -> Call:
    layer = CrossModalTransformer(width, 8, 1).train()
    x, mask = torch.randn(16, 25, width).requires_grad_(), torch.ones(16, 25, dtype=torch.bool)
    return lambda: layer(x, [x], mask, [mask]).sum().backward()


def _em(samples: int = 256, width: int = WIDTH, components: int = 7) -> Call:
    x = torch.randn(samples, width).requires_grad_()
    return lambda: fit(x, components).means.sum().backward()


def _joint(count: int = 3, components: int = 7) -> Call:
    measures = problems.mixtures(count, components, 8)
    masses = [mixture.weights for mixture in measures]

    def call() -> object:
        cost = joint_cost(measures)
        return sinkhorn(cost, masses, epsilon=0.1 * float(cost.mean()), iterations=_ROUNDS, tolerance=1e-300)

    return call


def _chain(count: int = 3, components: int = 7) -> Call:
    measures = problems.mixtures(count, components, 8)
    masses, costs = [mixture.weights for mixture in measures], pair_costs(measures, chain(count))
    return lambda: tree(costs, masses, epsilon=0.1 * problems.mean(costs), iterations=_ROUNDS, tolerance=1e-300)


def _sampled(count: int = 3, samples: int = 4096, components: int = 7) -> Call:
    measures = problems.mixtures(count, components, 8)
    costs = pair_costs(measures, complete(count))
    options = {
        "epsilon": 0.1 * count * problems.mean(costs),
        "costs": costs,
        "iterations": _ROUNDS,
        "tolerance": 1e-300,
    }
    return lambda: sampled(measures, samples=samples, **options)


def _mmd(samples: int = 256, width: int = WIDTH) -> Call:
    x, y = (torch.randn(samples, width).requires_grad_() for _ in range(2))
    return lambda: mmd(x, y, 8.0).backward()


def _of_layer(frames: int, keys: int, width: int) -> float:
    """Multiplications of a layer: two maps of frames and their feed-forward block, two maps of keys, two products."""
    return (2 + 8) * frames * width**2 + 2 * keys * width**2 + 2 * frames * keys * width


_ROUNDS = 8  # of Sinkhorn, none of which tries a Newton step: the laws are those of rounds
_POWERS = (32, 64, 128, 256, 512, 1024)
LAWS = (
    Law("training step", "B", "B", (8, 16, 32, 64), lambda n: n, lambda n: _step(samples=n)),
    Law(
        "training step",
        "T",
        "T + T²",
        (12, 25, 50, 100),
        lambda n: _of_layer(n, 2 * n, WIDTH),  # the keys are those of two other modalities
        lambda n: _step(frames=n),
    ),
    Law("attention", "T", "T²", (32, 64, 128, 256, 512), lambda n: n**2, _attend),
    Law("transformer layer", "d", "T d² + T² d", _POWERS[:-1], lambda n: _of_layer(25, 25, n), _layer),
    Law("EM", "N", "N K d", (64, 256, 1024, 4096), lambda n: n, lambda n: _em(samples=n)),
    Law("EM", "K", "N K d", (4, 8, 16, 32, 64), lambda n: n, lambda n: _em(components=n)),
    Law("EM", "d", "N K d", _POWERS, lambda n: n, lambda n: _em(width=n)),
    Law("MMD", "N", "N² d", (32, 64, 128, 256, 512), lambda n: n**2, lambda n: _mmd(samples=n)),
    Law("joint plan", "K", "K^M", (8, 16, 32, 64, 128), lambda n: n**3, lambda n: _joint(components=n)),
    Law("joint plan", "M", "K^M", (2, 3, 4, 5, 6, 7, 8), lambda n: 7**n, lambda n: _joint(count=n)),
    Law("chain", "K", "M K²", (8, 32, 128, 512), lambda n: n**2, lambda n: _chain(components=n)),
    Law("chain", "M", "M K²", (4, 8, 16, 32), lambda n: n, lambda n: _chain(count=n)),
    Law("sampled", "M", "M K R", (4, 8, 16, 32), lambda n: n, lambda n: _sampled(count=n)),
    Law("sampled", "R", "M K R", (1024, 4096, 16384), lambda n: n, lambda n: _sampled(samples=n)),
)


# --- what each optimisation brought ----------------------------------------------------------------------------------


def optimisations(options: Options) -> pd.DataFrame:
    """Each optimisation beside the plain path that gives the same; the ratio is plain over ours."""
    tables = []
    for name, (plain, ours) in pairs().items():
        table = paired({"ours": ours, "plain": plain}, rounds=options.rounds)
        tables.append(table.assign(case=name))
    return pd.concat(tables)


def pairs() -> dict[str, tuple[Call, Call]]:
    """The plain path and ours, by what was made faster."""
    torch.manual_seed(0)
    frames = torch.randint(6, 25, (SAMPLES,), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(FRAMES) < frames.unsqueeze(1)
    return {
        "attention": _attention_pair(mask, 0.0),
        "attention with dropout": _attention_pair(mask, 0.2),
        "dropout": _dropout_pair(),
        "only valid frames": _frames_pair(mask),
        "trimming": _trimming_pair(frames),
        "EM's backward pass": _em_pair(),
        "EM of all modalities at once": _stack_pair(),
        "rounds of Sinkhorn, K = 7": _rounds_pair(7),
        "rounds of Sinkhorn, K = 20": _rounds_pair(20),
        "Newton steps in Sinkhorn": _newton_pair(),
        "gradient of transport": _envelope_pair(),
        "optimiser": _optimiser_pair(),
    }


def _attention_pair(mask: Tensor, rate: float) -> tuple[Call, Call]:
    heads, width, both = 8, WIDTH // 8, torch.cat([mask, mask], 1)
    query, key, value = (
        torch.randn(SAMPLES, length, heads, width).transpose(1, 2).requires_grad_()
        for length in (FRAMES, 2 * FRAMES, 2 * FRAMES)
    )

    def plain() -> None:
        seen = both[:, None, None]
        F.scaled_dot_product_attention(query, key, value, seen, rate).square().sum().backward()

    return plain, lambda: attention(query, key, value, both, rate).square().sum().backward()


def _dropout_pair() -> tuple[Call, Call]:
    x = torch.randn(SAMPLES * FRAMES, 4 * WIDTH).requires_grad_()
    return lambda: F.dropout(x, 0.1).sum().backward(), lambda: dropout(x, 0.1).sum().backward()


def _frames_pair(mask: Tensor) -> tuple[Call, Call]:
    transformer = CrossModalTransformer(WIDTH, 8, 5).train()
    x = torch.randn(SAMPLES, FRAMES, WIDTH).requires_grad_()

    def plain() -> None:
        at, rows, keys_at, keys = transformer._start(x, [x, x], mask, [mask, mask], packed=False)
        for layer in transformer.layers:
            rows = layer(rows, keys, at, keys_at)
        at.unpack(transformer.norm(rows)).where(mask.unsqueeze(-1), 0).sum().backward()

    return plain, lambda: transformer(x, [x, x], mask, [mask, mask]).sum().backward()


def _trimming_pair(frames: Tensor) -> tuple[Call, Call]:
    batch = problems.batch(frames, torch.Generator().manual_seed(0))
    model = problems.trainer(batch).model
    return lambda: model(batch).prediction.sum().backward(), lambda: model(batch.trimmed()).prediction.sum().backward()


def _summed(mixture: GaussianMixture) -> Tensor:
    return mixture.weights.square().sum() + mixture.means.square().sum() + mixture.covariances.sum()


def _em_pair() -> tuple[Call, Call]:
    x = torch.randn(3, SAMPLES, WIDTH).requires_grad_()

    def plain() -> None:
        mixture = fit(x, 7, steps=0)
        for _ in range(5):
            mixture = m_step(x, e_step(mixture, x))
        _summed(mixture).backward()

    return plain, lambda: _summed(fit(x, 7)).backward()


def _stack_pair() -> tuple[Call, Call]:
    parts = [torch.randn(SAMPLES, WIDTH).requires_grad_() for _ in range(3)]
    return (
        lambda: sum(_summed(fit(x, 7)) for x in parts).backward(),
        lambda: _summed(fit(torch.stack(parts), 7)).backward(),
    )


def _problem(components: int) -> tuple[Tensor, tuple[Tensor, ...], float]:
    measures = problems.mixtures(3, components, 8)
    cost = joint_cost(measures).float()
    return cost, tuple(mixture.weights.float() for mixture in measures), 0.1 * float(cost.mean())


def _rounds_pair(components: int) -> tuple[Call, Call]:
    cost, masses, epsilon = _problem(components)
    given = {"epsilon": epsilon, "iterations": 2000, "tolerance": 1e-5}
    return lambda: _log_rounds(-cost / epsilon, masses, 2000, 1e-5), lambda: sinkhorn(cost, masses, **given)


def _newton_pair() -> tuple[Call, Call]:
    """Prototypes of noise at the official epsilon, some of them of a single sample."""
    found = fit(torch.randn(3, SAMPLES, WIDTH, generator=torch.Generator().manual_seed(12)), 7)
    measures = [GaussianMixture(*parts) for parts in zip(found.weights, found.means, found.covariances, strict=True)]
    given = -joint_cost(measures) / WIDTH / 0.1, tuple(found.weights.unbind()), 10_000, 1e-4
    return lambda: _scaled_rounds(*given, patience=10_000), lambda: _scaled_rounds(*given)


def _envelope_pair() -> tuple[Call, Call]:
    cost, masses, epsilon = _problem(7)
    cost = cost.clone().requires_grad_()
    rounds = sinkhorn(cost, masses, epsilon=epsilon, iterations=2000, tolerance=1e-5).iterations
    logs = [mass.log() for mass in masses]

    def plain() -> None:
        potentials = [torch.zeros_like(mass) for mass in masses]
        for _ in range(rounds):
            log_plan = _log_round(-cost / epsilon, logs, potentials)
        plan = log_plan.exp()
        ((plan * cost).sum() + epsilon * (plan * log_plan).sum()).backward()

    def ours() -> None:
        sinkhorn(cost, masses, epsilon=epsilon, iterations=rounds, tolerance=1e-5).entropic_value.backward()

    return plain, ours


def _optimiser_pair() -> tuple[Call, Call]:
    batch = problems.batch(torch.full((SAMPLES,), FRAMES), torch.Generator().manual_seed(0))
    model = problems.trainer(batch).model
    model(batch).prediction.sum().backward()
    loop, fused = (torch.optim.AdamW(model.parameters(), **how) for how in ({"foreach": False}, {"fused": True}))
    return loop.step, fused.step
