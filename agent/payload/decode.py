"""One frame, verified already, to bytes of the image: never more than the manifest says."""

from __future__ import annotations

import zstandard

from agent.errors import ImageError


class Decoder:
    """zstd in one thread. A frame that lies about its size is refused before it is decoded."""

    def __init__(self, chunk_size: int) -> None:
        # The window of a frame is its content rounded up to a power of two.
        self._zstd = zstandard.ZstdDecompressor(max_window_size=2 * chunk_size)

    def decode(self, frame: memoryview, into: memoryview) -> None:
        """Fill `into` exactly, or raise `ImageError`."""
        try:
            stated = zstandard.get_frame_parameters(frame).content_size
            if stated == zstandard.CONTENTSIZE_UNKNOWN:
                raise ImageError("does not state how much it holds")
            if stated != len(into):
                raise ImageError(f"holds {stated} bytes, the manifest says {len(into)}")
            with self._zstd.stream_reader(frame, read_across_frames=True, closefd=False) as reader:
                done = 0
                while done < len(into) and (count := reader.readinto(into[done:])):
                    done += count
                if done < len(into) or reader.read(1):
                    more = "fewer" if done < len(into) else "more"
                    raise ImageError(f"holds {more} bytes than the {len(into)} it states")
        except zstandard.ZstdError as error:
            raise ImageError(f"is no zstd frame: {error}") from None
