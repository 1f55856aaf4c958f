"""The reference deploy server, for labs and tests: plans, images, events, escrow, a fleet page.

Needs the extra `server` (Starlette, uvicorn), and is therefore imported only by who serves.
`serve` runs it, `app` maps URLs to the rest: `plans`, `files`, `events`, `page`. docs/serve.md.
"""
