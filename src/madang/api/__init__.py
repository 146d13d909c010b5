"""The control API: what people, the console and the CLI speak with. Thin: `control` does it all."""
