"""The demo world: a small procedural world in which identity, pose, expression and motion are known numbers."""
