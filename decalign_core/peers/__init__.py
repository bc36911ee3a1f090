"""The methods that DecAlign is compared with, one paper a file: same batch in, same representation out."""

from decalign_core.peers import dmd, late, mfm, misa, self_mm
from decalign_core.peers.common import Peer
from decalign_core.peers.dmd import DMD, DMDConfig
from decalign_core.peers.early import EarlyConfig, EarlyFusion
from decalign_core.peers.late import LateConfig, LateFusion
from decalign_core.peers.lmf import LMF, LMFConfig
from decalign_core.peers.mfm import MFM, MFMConfig
from decalign_core.peers.misa import MISA, MISAConfig
from decalign_core.peers.mult import MulT, MulTConfig
from decalign_core.peers.self_mm import GeneratedLabels, SelfMM, SelfMMConfig
from decalign_core.peers.tfn import TFN, TFNConfig

PEERS: dict[str, Peer] = {
    "early": Peer(EarlyConfig, EarlyFusion),
    "late": Peer(LateConfig, LateFusion, late.objective),
    "tfn": Peer(TFNConfig, TFN),
    "lmf": Peer(LMFConfig, LMF),
    "mfm": Peer(MFMConfig, MFM, mfm.objective),
    "mult": Peer(MulTConfig, MulT),
    "misa": Peer(MISAConfig, MISA, misa.objective),
    "self_mm": Peer(SelfMMConfig, SelfMM, self_mm.objective, GeneratedLabels),
    "dmd": Peer(DMDConfig, DMD, dmd.objective),
}

__all__ = ["PEERS", "Peer"]
