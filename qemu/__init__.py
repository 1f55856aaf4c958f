"""The rig: emulated machines with OVMF, a TPM, Tang and blank disks, for the demo and the tests.

    errors    what can go wrong, by reaction          program   run host programs, with a hint
    firmware  OVMF and its variable store             accel     KVM where it truly works, else TCG
    disk      qcow2 images: blank, branched, hashed   tpm       swtpm: fresh, copied, lockout reset
    machine   what a machine is made of (pure)        vm        one that is switched on
    console   serial lines with time stamps           shell     a root shell on the second serial
    qmp       QEMU's control protocol                 ssh       commands and files over one link
    tang      real tangd on loopback                  hardware  a machine that outlives its boots
    server    the deploy server as a process          lab       all of it for one test or demo

Nothing here is shipped: the package is imported from the repository's root. It uses the standard
library only (the command line uses click), needs the Debian packages listed in `qemu/deps`, and
must be root nowhere.
"""
