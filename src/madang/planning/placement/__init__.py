"""Where demands go in a fleet: arrays in, a choice out. Nothing here knows of services or jobs.

Read `fleet` and `demand`, then `fragmentation` and `columns`, then `placer`, then `gang` for those
that go together; `baselines` are the rules that others use, to be measured against.
"""
