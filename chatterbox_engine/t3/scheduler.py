"""Which requests run, on which rows of the KV cache, and what the next step computes. Holds no tensors."""

from bisect import insort
from dataclasses import dataclass, field
from operator import attrgetter

from chatterbox_engine.errors import Overloaded


@dataclass(eq=False, slots=True)
class Sequence:
    """One request's place in T3: `width` rows (two with CFG), a prompt to prefill, then a token a step."""

    width: int
    prompt_length: int
    rows: list[int] = field(default_factory=list)
    slot: int = -1
    """Where its sampling state lies, from admission to release."""
    prefilled: int = 0
    wordless: int = 0
    """Positions of its unconditioned row that the cache had from the start, where those are all but the last few."""
    steps: int = 0
    """Tokens sampled so far."""
    due: float = 0.0
    """When its listener runs dry, on the monotonic clock: who is due first is let in first."""

    @property
    def length(self) -> int:
        """Positions that the next decode step finds in the cache: the prompt and every token fed back so far."""
        return self.prefilled + max(0, self.steps - 1)

    @property
    def prefilling(self) -> bool:
        return self.prefilled < self.prompt_length


class Scheduler:
    """Whose listener runs dry first is let in first, and of those who are due alike whoever came first.

    Live rows always lie side by side from row 0, so that a step reads one block.
    """

    def __init__(self, max_streams: int, prefill_positions: int, max_waiting: int) -> None:
        self._max_streams = max_streams
        self._prefill_positions = prefill_positions
        self._max_waiting = max_waiting
        self.waiting: list[Sequence] = []
        """In the order in which they will be let in."""
        self.running: list[Sequence] = []
        self.owners: list[Sequence] = []
        """The sequence of each live row."""
        self._slots = list(range(max_streams))[::-1]
        self._prompts: list[Sequence] = []

    @property
    def rows(self) -> int:
        """Live rows."""
        return len(self.owners)

    def submit(self, sequence: Sequence) -> None:
        """Queue a request. Raises Overloaded where the queue is full."""
        if len(self.waiting) >= self._max_waiting:
            raise Overloaded
        insort(self.waiting, sequence, key=attrgetter("due"))

    def admit(self) -> list[Sequence]:
        """Give rows to those who wait, as far as there are places."""
        admitted = []
        while self.waiting and len(self.running) < self._max_streams:
            sequence = self.waiting.pop(0)
            sequence.rows = list(range(self.rows, self.rows + sequence.width))
            sequence.slot = self._slots.pop()
            self.owners.extend([sequence] * sequence.width)
            self.running.append(sequence)
            self._prompts.append(sequence)
            admitted.append(sequence)
        return admitted

    def prefill(self) -> list[tuple[Sequence, int]]:
        """Sequences to prefill in this step, with positions for each.

        Beside running streams all of them together take about `prefill_positions` (rows x positions), so that nobody's
        next token waits longer than about one step; where nobody is decoding, prompts are taken whole. A prompt's last
        part has two positions at least: the alignment guard looks at both.
        """
        self._prompts = [s for s in self._prompts if s.prefilling and s.rows]
        if len(self._prompts) == len(self.running):
            return [(s, s.prompt_length - s.prefilled) for s in self._prompts]
        plan: list[tuple[Sequence, int]] = []
        budget = self._prefill_positions
        for sequence in self._prompts:
            if budget < 2 * sequence.width and plan:
                break
            left = sequence.prompt_length - sequence.prefilled
            count = min(left, max(2, budget // sequence.width))
            if left - count == 1:
                count = count - 1 if count > 2 else left
            plan.append((sequence, count))
            budget -= count * sequence.width
        return plan

    def release(self, sequence: Sequence) -> list[tuple[int, int, int]]:
        """Take a request out, waiting or running; the last rows move into the holes it leaves.

        Returns the moves as (source row, target row, positions to copy).
        """
        if sequence not in self.running:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return []
        self.running.remove(sequence)
        self._slots.append(sequence.slot)
        keep = self.rows - sequence.width
        holes = [row for row in sequence.rows if row < keep]
        movers = [row for row in range(keep, self.rows) if self.owners[row] is not sequence]
        moves = []
        for source, target in zip(movers, holes, strict=True):
            owner = self.owners[source]
            owner.rows[owner.rows.index(source)] = target
            self.owners[target] = owner
            moves.append((source, target, max(owner.length + 1, owner.wordless)))
        del self.owners[keep:]
        sequence.rows = []
        return moves


def grouped(plan: list[tuple[Sequence, int]], positions: int) -> list[list[tuple[Sequence, int]]]:
    """A step's prompts in their order, in groups of at most so many positions (rows x positions), or of one prompt."""
    groups: list[list[tuple[Sequence, int]]] = []
    room = 0
    for sequence, count in plan:
        wanted = count * sequence.width
        if wanted > room:
            groups.append([])
            room = positions
        groups[-1].append((sequence, count))
        room -= wanted
    return groups
