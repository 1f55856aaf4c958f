"""What this machine has: pure data, recorded by an adapter, readable anywhere."""
