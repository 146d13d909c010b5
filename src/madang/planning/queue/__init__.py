"""Who is next, with names: the arrays of `share`, told in jobs, services and projects.

Read `waiting` (what waits for room alone), `yard` and `lanes` (the line of each accelerator kind,
as arrays), `order` (who is tried first), `turns` and `preempt` (who makes room), `queues` (what is
kept from turn to turn), then `standing`, what somebody who waits is told.
"""
