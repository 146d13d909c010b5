"""Models: taken in by digest, read with suspicion, never executed."""
