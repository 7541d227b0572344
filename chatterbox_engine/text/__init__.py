"""Text on its way to T3: validated, split into pieces, normalised, tokenised."""

from chatterbox_engine.text.clauses import Clauses
from chatterbox_engine.text.normalise import normalise
from chatterbox_engine.text.split import Piece, split
from chatterbox_engine.text.tokenizer import TextTokenizer
from chatterbox_engine.text.validation import validate

__all__ = ["Clauses", "Piece", "TextTokenizer", "normalise", "split", "validate"]
