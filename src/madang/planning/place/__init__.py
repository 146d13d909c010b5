"""Where things go, with names: the arrays of `placement`, told in replicas, gangs and nodes.

Read `ground` (what is free, scored), then `place` (one replica) and `gangs` (many ranks at once),
then `fix` (the smallest change with which it would have fitted), and `draw` (the watts of it).
"""
