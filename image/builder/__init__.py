"""What `image/build` is made of: the build machine, apt, mkosi, and one module per image."""
