# The provider's last release of the 0.8 line: what its 0.9 line has made of the schema cannot be built from Go's module proxy, on
# which hosts without the registry depend (docs/decisions/virtual-machines.md).
terraform {
  required_version = ">= 1.6"
  required_providers {
    libvirt = {
      source  = "dmacvicar/libvirt"
      version = "~> 0.8.3"
    }
  }
}
