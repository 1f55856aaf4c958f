"""`make bench`: this project's image pipeline against every peer, side by side on one machine.

`python -m tests.bench` from the repository's root, as root. docs/performance.md says how it
measures and what to distrust.
"""
