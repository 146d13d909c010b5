"""Gates: what a build must show on a real replica before it may serve, and who a replica is.

Knows nothing of services or placement: it talks to one engine and says how each check went.
"""
