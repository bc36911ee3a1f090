"""Which frames of a padded batch are computed.

Maps of single frames (projections, feed-forward blocks, normalisation, dropout) take rows ``(n, d)`` in place of
``(B, T, d)``. On a CPU the rows are the valid frames, so that padding costs nothing. On an accelerator they are all
frames: to count the valid ones the host would have to wait for it.
"""

from __future__ import annotations

from torch import Tensor


class Frames:
    """The rows of a batch with ``mask`` ``(B, T)``; ``packed`` takes valid frames only (None: as the device asks)."""

    def __init__(self, mask: Tensor, packed: bool | None = None) -> None:
        self.mask = mask
        on_host = mask.device.type == "cpu"
        self.is_full = on_host and bool(mask.all())
        packs = on_host if packed is None else packed
        self.index = mask.flatten().nonzero().squeeze(1) if packs and not self.is_full else None

    def pack(self, x: Tensor) -> Tensor:
        """Rows ``(n, d)`` of ``(B, T, d)``; a padded frame is left out, or 0 whatever it held."""
        rows = x.flatten(0, 1)
        if self.index is not None:
            return rows.index_select(0, self.index)
        return rows if self.is_full else rows.where(self.mask.flatten().unsqueeze(1), 0)

    def unpack(self, rows: Tensor) -> Tensor:
        """``(B, T, d)`` of rows ``(n, d)``; 0 where a frame has none."""
        batch, frames = self.mask.shape
        if self.index is not None:
            rows = rows.new_zeros(batch * frames, rows.shape[1]).index_copy(0, self.index, rows)
        return rows.view(batch, frames, -1)
