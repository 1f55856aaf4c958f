"""The reference deploy server, for labs and tests: plans, images, events, escrow, a fleet page.

Needs the extra `server` (Starlette, uvicorn), and is therefore imported only by who serves:
`serve(DIRECTORY, "HOST:PORT")` in the foreground, `running(DIRECTORY)` as a context. `listen` runs
it, `app` maps URLs to the rest: `plans`, `files`, `events`, `page`. docs/serve.md.
"""

from agent.server.listen import Tls, running, serve
from agent.server.options import Options

__all__ = ["Options", "Tls", "running", "serve"]
