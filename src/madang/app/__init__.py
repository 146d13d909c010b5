"""The one place that knows every adapter, and plugs them in: each process starts here.

`python -m madang.app HOME --host H --port N` is control; the gateway is `python -m madang.gateway`.
"""
