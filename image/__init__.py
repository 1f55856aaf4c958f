"""What the live image adds to Debian (tree/, scripts) and the program that builds it (build)."""
