"""Who runs next, and who makes room: jobs as arrays in, starts and preemptions out.

Nothing here knows of resources, nodes or clocks. Read `line` and `rule`, then `water` (what each
project is entitled to), `ledger` (what it went short of), `lives` (what is learnt of how long jobs
run), then `turn`, which decides.
"""
