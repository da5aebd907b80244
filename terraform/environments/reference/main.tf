# The reference cluster's hosts on this machine: five lab hosts h1 to h5, each in a rack of its own. What runs on them, 50 nodes
# and 5 proxies, is said in inventories/reference.
#
#     terraform -chdir=terraform/environments/reference init
#     terraform -chdir=terraform/environments/reference apply
#     ansible-playbook -i inventories/reference site.yml

terraform {
  required_version = ">= 1.6"
  backend "local" {}
}

variable "host_count" {
  description = "How many hosts."
  type        = number
  default     = 5
}

variable "name" {
  description = "Name of the lab; several can stand side by side."
  type        = string
  default     = "ref"
}

variable "prefix" {
  description = "First three numbers of all addresses; every lab needs its own."
  type        = string
  default     = "198.18.5"
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
      rack   = "r${number}"
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
