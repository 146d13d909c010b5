"""Shipped for tests: builders of worlds, a virtual clock, a node that exists on paper only."""
