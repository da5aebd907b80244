"""What all daemons share: how one is launched and the lean process that a node becomes."""
