"""Foreman and Satellite, unmodified: plans from its templates, discovery, built and failed.

`address`, `facts`, `standing`, `order`, `story` and `config_report` are pure: what is asked, what
is said, and what answers mean. `talk` makes requests, `source` finds the plan of a host that
Foreman knows, `discovery` that of one it does not (`announcement` uploads its facts and listens for
orders), and `outcome` tells how it ended. For operators: docs/foreman.md.
"""
