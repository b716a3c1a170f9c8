"""Training: one loop for the identity model at full size and for every model of the demo world.

`loop.py` trains a task; `identity.py` is the task that makes a Slot-ID model; `data.py` holds what it trains on.
"""
