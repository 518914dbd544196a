"""Numbers on their way from the device to the host, which waits for them only when it reads them."""

from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor that the device makes when it comes to it."""

    def __init__(self, values: Tensor) -> None:
        """Asks for the copy.

        Args:
            values: not changed any more by what follows.
        """
        self._values, self._event = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[Any]:
        """Reads the numbers; the host waits until the device has come to the copy.

        Returns:
            Lists as deep as the tensor.
        """
        if self._event is not None:
            self._event.synchronize()
        values: list[Any] = self._values.tolist()
        return values
