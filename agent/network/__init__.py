"""The live system's network, as the kernel command line wants it.

systemd's own generator (systemd-network-generator(8), as of version 257) gives up on everything
when one option is wrong, turns DHCP off everywhere for a lone `nameserver=`, does not know bond
options and reads zero-padded VLAN names as octal. So what we write here sorts before its files and
covers every interface that they would. Pure but for `__main__`, and standard library only: it runs
before udev does.

    words      the command line as the kernel splits it
    addresses  what an ip= says, and how
    wished     what all options together ask for
    discovery  the options of Foreman's discovery image, which mean the same
    files      that, as files of systemd-networkd
"""
