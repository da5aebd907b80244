# Hosts that exist already: bare metal, or machines that somebody else's Terraform made. Nothing is created; what is said of
# them becomes the same outputs as those of every other kind of host, so that the inventory comes from one place.
terraform {
  required_version = ">= 1.6"
}
