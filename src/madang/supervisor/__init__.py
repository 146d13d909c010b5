"""The root process of a node: start, watch, restart, stop. Standard library only.

Knows nothing of services, models or requests: it carries out LaunchPlans and reports processes.
"""
