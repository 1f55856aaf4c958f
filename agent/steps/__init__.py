"""The verbs of an installation, one file each."""
