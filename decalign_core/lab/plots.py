"""Figures of the book in one style: functions of a record and an axis, that draw and return the axis.

The palette is Okabe and Ito's, told apart by colour-blind readers; figures keep a light ground of their own, so they
read the same in both themes of the book.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import ArrayLike
from torch import Tensor

from decalign_core.alignment.mixture import GaussianMixture

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A", "#B5A800")
SEQUENTIAL, DIVERGING = "viridis", "PuOr"

_STYLE = {
    "figure.facecolor": "#FFFFFF",
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "#FFFFFF",
    "axes.facecolor": "#FFFFFF",
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "font.size": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "image.cmap": SEQUENTIAL,
}


def panels(columns: int = 1, *, width: float = 4.2, height: float = 3.2, rows: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure in the book's style and its axes, a flat array of ``rows * columns``; sizes in inches an axis."""
    plt.rcParams.update(_STYLE)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    return figure, axes.ravel()


def curves(table: pd.DataFrame, columns: Sequence[str], ax: Axes, *, x: str = "epoch", labels: bool = True) -> Axes:
    """Columns of a table over another one, each labelled at its end."""
    for index, column in enumerate(columns):
        colour = PALETTE[index % len(PALETTE)]
        ax.plot(table[x], table[column], color=colour)
        if labels:
            end = (table[x].iloc[-1], table[column].iloc[-1])
            ax.annotate(column, end, xytext=(4, 0), textcoords="offset points", color=colour, va="center", fontsize=9)
    ax.set_xlabel(x)
    return ax


def clouds(points: Mapping[str, Tensor | ArrayLike], ax: Axes, *, size: float = 14, label: bool = True) -> Axes:
    """Point clouds ``(n, 2)`` by name, each in a colour of its own, named beside its centre."""
    for index, (name, cloud) in enumerate(points.items()):
        cloud, colour = _numbers(cloud), PALETTE[index % len(PALETTE)]
        ax.scatter(*cloud.T, s=size, color=colour, alpha=0.6, linewidths=0)
        if label:
            box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
            ax.annotate(name, cloud.mean(axis=0), color=colour, weight="bold", ha="center", bbox=box)
    return ax


def prototypes(mixture: GaussianMixture, ax: Axes, *, colour: str = PALETTE[0], deviations: float = 2.0) -> Axes:
    """The components of a mixture in two dimensions: means, and ellipses at so many standard deviations."""
    covariances = mixture.covariances.diag_embed() if mixture.is_diagonal else mixture.covariances
    for weight, mean, covariance in zip(mixture.weights, mixture.means, covariances, strict=True):
        values, vectors = np.linalg.eigh(_numbers(covariance))
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        height, width = 2 * deviations * np.sqrt(values)
        style = {"edgecolor": colour, "facecolor": "none", "linewidth": 0.5 + 3 * float(weight)}
        ax.add_patch(Ellipse(_numbers(mean), width, height, angle=angle, **style))
        ax.plot(*_numbers(mean), marker="+", color=colour, markersize=9)
    return ax


def matrix(
    values: Tensor | ArrayLike,
    ax: Axes,
    *,
    label: str,
    x: str = "",
    y: str = "",
    number: str = "",
    diverging: bool = False,
) -> Axes:
    """A matrix as an image with its colour bar; ``number`` is a format for the cells' values, "" shows none."""
    cells = _numbers(values)
    limit = np.abs(cells).max()
    options = {"cmap": DIVERGING, "vmin": -limit, "vmax": limit} if diverging else {"cmap": SEQUENTIAL}
    image = ax.imshow(cells, aspect="auto", interpolation="nearest", **options)
    ax.figure.colorbar(image, ax=ax, label=label)
    ax.grid(False)
    ax.set(xlabel=x, ylabel=y)
    for (row, column), value in np.ndenumerate(cells) if number else ():
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = {"ha": "center", "va": "center", "fontsize": 8, "color": "white" if dark else "black"}
        ax.text(column, row, format(value, number), **text)
    return ax


def _numbers(values: Tensor | ArrayLike) -> np.ndarray:
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
