"""What the operator wants: the plan, its parts and the presets. Pure, no I/O.

`agent.plan.parse.parse` turns bytes into a `Plan` or reports every problem at once; past that point
a value that exists is valid.
"""
