"""Rounds of grants: by what rule one is filled, and what becomes of it when."""
