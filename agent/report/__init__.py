"""What happened: events, the reporter that makes them, and the sinks they go to.

`event` is the format, `reporter` numbers events and fans them out, `buffer` and `background` keep a
slow sink from stopping an install, `console`, `journal`, `jsonl` and `http` are the sinks. The
contract for receivers is docs/events.md.
"""
