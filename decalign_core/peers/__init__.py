"""The methods that DecAlign is compared with, one paper a file: same batch in, same representation out."""

from decalign_core.peers.common import Peer
from decalign_core.peers.early import EarlyConfig, EarlyFusion

PEERS: dict[str, Peer] = {
    "early": Peer(EarlyConfig, EarlyFusion),
}

__all__ = ["PEERS", "Peer"]
