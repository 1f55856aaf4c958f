"""Unit tests reach no network: a preview asks nobody for an image."""

from __future__ import annotations

import os

os.environ["BEDPLATE_OFFLINE"] = "1"
