"""What T3 says of one request: speech tokens, and the words that begin with them."""

from collections.abc import Callable, Sequence

from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.text.words import Follower, Word
from chatterbox_engine.types import Begun


class TokenStream(Mailbox[int]):
    """The valid speech tokens. The engine's thread fills `places` before it puts the token that belongs to each."""

    def __init__(self, on_read: Callable[[], None]) -> None:
        super().__init__(on_read)
        self.places: list[int] = []
        """The number of the text's id that T3 attended to, for each token; none where that is not known."""
        self._follower: Follower | None = None
        self._followed = 0

    def follow(self, words: Sequence[Word], spoken: int) -> None:
        """Say when these words begin; `spoken`: tokens of them that were drawn elsewhere."""
        self._follower = Follower(words, spoken)

    def begun(self, tokens: int) -> tuple[Begun, ...]:
        """The words that begin with the next `tokens` tokens, which have been read."""
        places = self.places[self._followed : self._followed + tokens]
        self._followed += tokens
        return () if self._follower is None else self._follower.follow(places)
