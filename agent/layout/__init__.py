"""Where everything will lie on the disks: decided in full, by pure arithmetic, before any write."""
