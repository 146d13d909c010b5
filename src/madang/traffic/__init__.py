"""Fast decisions, pure: admit, route and account for one request, in microseconds.

Knows nothing of sockets, clocks or files: `gateway` brings the bytes and the time.
"""
