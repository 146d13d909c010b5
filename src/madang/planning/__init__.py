"""Slow decisions, pure: a snapshot goes in, a plan of named actions with reasons comes out.

Knows no clock, file, network or log; `control` brings the snapshot and carries out the plan.
"""
