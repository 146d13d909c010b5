"""The life of an attempt: what it waits for, how it goes, and whose doing its end was."""
