"""The fast loop: the OpenAI-compatible door, a thin shell around `traffic`.

Moves bytes and keeps files; whatever must be decided about a request is asked of `traffic`. This
process loads no pydantic, SQLAlchemy, FastAPI or numpy: many of them run on one machine.
"""
