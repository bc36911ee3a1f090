r"""DecAlign: encode each modality into a unique and a common part, align both, fuse them, predict.

The unique parts are aligned by multi-marginal transport between Gaussian prototypes, the common parts by matching their
distributions.

=========  ==================================  ==================================================
symbol     meaning                             where
=========  ==================================  ==================================================
B, N       samples of a batch                  :class:`~decalign_core.types.Batch`
T          frames of a sequence
d          common width                        ``DecAlignConfig.width``
M          modalities                          ``DecAlignConfig.modalities``
K          prototypes a modality               ``ObjectiveConfig.components``
=========  ==================================  ==================================================

Reading order: :mod:`~decalign_core.types`, :mod:`~decalign_core.alignment.mixture`,
:mod:`~decalign_core.alignment.bures`, :mod:`~decalign_core.alignment.transport`,
:mod:`~decalign_core.alignment.matching`, :mod:`~decalign_core.objective`, :mod:`~decalign_core.model`,
:mod:`~decalign_core.lab.training`.
"""

from decalign_core.model import DecAlign, DecAlignConfig
from decalign_core.objective import ObjectiveConfig, objective
from decalign_core.types import Batch, Losses, Representation, Splits

__all__ = ["Batch", "DecAlign", "DecAlignConfig", "Losses", "ObjectiveConfig", "Representation", "Splits", "objective"]
__version__ = "0.1.0"
