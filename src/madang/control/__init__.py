"""The slow loop: observe, plan, act, record. Holds no child process and makes no decision.

Decisions are `planning`'s; the world is reached through `ports` only.
"""
