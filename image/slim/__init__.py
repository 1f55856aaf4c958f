"""The slim form: a kernel and a small initrd that fetch the live image's initrd by its digest."""
