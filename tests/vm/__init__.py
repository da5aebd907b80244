"""Virtual machines for real: libvirt, qemu, Terraform's module for them, a deployment to what it made."""
