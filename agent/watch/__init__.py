"""The fleet in a terminal: what `bedplate watch URL` reads from a server and draws.

`feed` follows the server's stream and comes back by itself, `rows` chooses and draws the table,
`machine` draws one machine. docs/fleet-page.md has the interface they read.
"""
