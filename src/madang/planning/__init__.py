"""Slow decisions, pure: a snapshot goes in, a plan of named actions with reasons comes out.

Knows no clock, file, network or log; `control` brings the snapshot and carries out the plan. `plan`
is the whole decision on one screen; each folder is one question of it: `queue` (who is next),
`place` (where), `services`, `attempts`, `health`, `use`, `rounds`. `share` and `placement` are the
arrays of the first two.
"""
