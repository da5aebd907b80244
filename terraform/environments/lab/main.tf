# The lab: hosts h1, h2, ... on this machine, spread over racks. The inventory in inventories/lab is made of its outputs.
#
#     terraform -chdir=terraform/environments/lab init
#     terraform -chdir=terraform/environments/lab apply -var host_count=4

terraform {
  required_version = ">= 1.6"
  backend "local" {}
}

variable "host_count" {
  description = "How many hosts."
  type        = number
  default     = 3
}

variable "rack_count" {
  description = "Over how many racks they are spread."
  type        = number
  default     = 3
}

variable "name" {
  description = "Name of the lab; several can stand side by side."
  type        = string
  default     = "lab"
}

variable "prefix" {
  description = "First three numbers of all addresses; every lab needs its own."
  type        = string
  default     = "198.18.0"
}

variable "suite" {
  description = "Debian release of the hosts: bookworm or trixie."
  type        = string
  default     = "bookworm"
}

module "lab" {
  source = "../../modules/lab"
  name   = var.name
  prefix = var.prefix
  suite  = var.suite
  hosts = {
    for number in range(1, var.host_count + 1) : "h${number}" => {
      number = number
      rack   = "r${(number - 1) % var.rack_count + 1}"
    }
  }
}

output "hosts" {
  description = "The hosts by name."
  value       = module.lab.hosts
}

output "access" {
  description = "How to reach them."
  value       = module.lab.access
}
