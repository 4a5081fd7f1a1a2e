"""The seed of all noise of one step, from the run's seed and how far it has come; checkpoints hold no random state."""

import hashlib


def noise_seed(seed: int, images_seen: int, purpose: str) -> int:
    """Return the seed for `purpose`, such as a phase's name: 8 bytes of SHA-256("seed/images/purpose").

    A hash, because neighbouring seeds and steps must not share noise.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{images_seen}/{purpose}".encode()).digest()[:8], "little")
