"""Let `python -m agent` be the `bedplate` command; the live image starts it this way."""

from agent.cli import main

main()
