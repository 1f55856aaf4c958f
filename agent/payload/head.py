"""The first MiB of an image, fetched and verified like all of it: its partition table."""

from __future__ import annotations

import math
import threading
from contextlib import closing
from dataclasses import replace

from agent.payload.courier import Courier
from agent.payload.fetch import PROBE_PATIENCE, Source
from agent.payload.gpt import HEAD
from agent.payload.manifest import Manifest
from agent.payload.mirrors import Mirrors
from agent.payload.options import FetchOptions


def head(manifest: Manifest, source: Source, options: FetchOptions) -> bytes:
    """Return the image's first MiB, or all of a smaller one; raise `ImageError`."""
    content = bytearray(min(HEAD, manifest.size))
    mirrors = Mirrors.of(source.payload_urls)
    mirrors.sequential = True
    courier = Courier(
        manifest,
        mirrors,
        replace(options, patience=min(options.patience, PROBE_PATIENCE)),
        origins=source.origins,
        until=math.inf,
        stopped=threading.Event(),
    )
    with closing(courier):
        for number, chunk in enumerate(manifest.chunks):
            if chunk.offset >= len(content):
                break
            if not chunk.zero:
                whole = bytearray(chunk.length)
                courier.bring(number, memoryview(whole))
                end = min(chunk.offset + chunk.length, len(content))
                content[chunk.offset : end] = whole[: end - chunk.offset]
    return bytes(content)
