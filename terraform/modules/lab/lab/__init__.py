"""Lab hosts: machines that boot their own systemd inside this one Linux machine.

Terraform calls `python3 -m lab` (see __main__.py) to make and to take away one host at a time.

    settings.py   where a lab lives and what its hosts are like
    shell.py      running other programs, also inside the lab's network namespace
    base.py       the Debian tree all hosts share
    network.py    the bridge, in a network namespace without a way out
    cgroups.py    control groups of a host's own, below the caller's
    host.py       one host: disk, keys, boot, shutdown, power cut
    fleet.py      several hosts: names and keys known to all, made and taken away together

Standard library only, so that it runs before anything of the project is installed.
"""
