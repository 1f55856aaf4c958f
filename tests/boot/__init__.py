"""Every way to start the live image, on emulated machines; `make boot`."""
