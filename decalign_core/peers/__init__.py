"""The methods that DecAlign is compared with, one paper a file: same batch in, same representation out."""

from decalign_core.peers import late, mfm
from decalign_core.peers.common import Peer
from decalign_core.peers.early import EarlyConfig, EarlyFusion
from decalign_core.peers.late import LateConfig, LateFusion
from decalign_core.peers.lmf import LMF, LMFConfig
from decalign_core.peers.mfm import MFM, MFMConfig
from decalign_core.peers.tfn import TFN, TFNConfig

PEERS: dict[str, Peer] = {
    "early": Peer(EarlyConfig, EarlyFusion),
    "late": Peer(LateConfig, LateFusion, late.objective),
    "tfn": Peer(TFNConfig, TFN),
    "lmf": Peer(LMFConfig, LMF),
    "mfm": Peer(MFMConfig, MFM, mfm.objective),
}

__all__ = ["PEERS", "Peer"]
