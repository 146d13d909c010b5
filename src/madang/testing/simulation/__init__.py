"""A whole Madang on a virtual clock: the product's own code, and faults drawn from a seed.

`run.storm(seed, steps)` is one history. The code of control, of the supervisors and of the
launchers is the product's; what stands around it is simulated: the clock and the threads (`loop`),
the wires (`network`), the machines (`machine`), engines, gateways and people.
"""
