"""The nouns: one file per kind, with its spec, its status and its table of phases. No I/O."""
