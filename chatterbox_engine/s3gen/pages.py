"""What a stream keeps of the flow's estimator, in pages: keys and values of all Euler steps and layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from chatterbox_engine.accel.memory import zeros

PAGE = 32
"""Places of a page."""


@dataclass(slots=True)
class Page:
    """Memory of 32 places."""

    memory: Tensor
    there: int
    """A bit for each place that is attended to."""


class PagedPast:
    """Keys and values of a stream in pages of 32 frames, for all steps and layers, and its convolutions' last inputs.

    Pages that another stream has too are never written to: a stream's own frames begin in a page of its own.
    """

    def __init__(self, before: Tensor, pages: list[Page] | None = None) -> None:
        """before: (steps, sequences, numbers) of 16 bits or fp32, as the kernels have rows; the pages lie beside it."""
        self.before = before
        self.pages = pages or []
        self.used = PAGE
        """Places of the last page that are taken."""

    def copy(self) -> "PagedPast":
        """Another stream's, that begins alike."""
        return PagedPast(self.before.clone(), [Page(page.memory, page.there) for page in self.pages])

    def grow(self, frames: int, page: tuple[int, ...]) -> int:
        """Places for so many frames more, in pages of so many bytes. Returns the first one's, counted from the first
        page's."""
        if self.used == PAGE:
            self._append(page)
        first = (len(self.pages) - 1) * PAGE + self.used
        while frames:
            if self.used == PAGE:
                self._append(page)
            count = min(frames, PAGE - self.used)
            self.pages[-1].there |= ((1 << count) - 1) << self.used
            self.used += count
            frames -= count
        return first

    def forget(self, first: int, last: int) -> None:
        """Keep the first and the last so many frames, and no page of which none is left."""
        gone = sum(page.there.bit_count() for page in self.pages) - first - last
        for page in self.pages:
            for place in range(PAGE):
                if not page.there >> place & 1:
                    continue
                if first:
                    first -= 1
                elif gone > 0:
                    page.there &= ~(1 << place)
                    gone -= 1
        self.pages = [page for page in self.pages[:-1] if page.there] + self.pages[-1:]

    def _append(self, page: tuple[int, ...]) -> None:
        # Zero, since a CPU's kernels multiply the places that are not taken, too, by nothing.
        self.pages.append(Page(zeros(page, torch.uint8, self.before.device), 0))
        self.used = 0
