"""How hypothesis draws: the same examples in every run, or new ones when asked.

A run that must say whether a change is good draws what it drew before the change. New examples
are for whoever looks for new faults: `pytest --hypothesis-profile=explore tests/unit`. How long an
example takes says how busy the machine is, so there is no deadline.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("steady", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("steady")
