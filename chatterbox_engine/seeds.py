"""Seeds of an utterance's pieces."""

import hashlib


def derive_seed(seed: int, index: int) -> int:
    """The seed of an utterance's piece `index`, of 63 bits; piece 0 keeps the utterance's own."""
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) & (2**63 - 1)
