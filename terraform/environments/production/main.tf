# An example to copy: hosts that exist, by the module `existing`. Machines of a cloud or of libvirt take its place with a
# module that has the same outputs. Ansible reads them through a link beside the file that says which service runs where:
#
#     cp -r terraform/environments/production terraform/environments/YOURS
#     mkdir inventories/YOURS && ln -s ../terraform_hosts.py inventories/YOURS/01-hosts.py
#     cp inventories/lab/02-groups.yml inventories/YOURS/
#     terraform -chdir=terraform/environments/YOURS init && terraform -chdir=terraform/environments/YOURS apply
#     ansible-playbook -i inventories/YOURS site.yml
#
# Who keeps hosts in Ansible alone copies inventories/production instead and needs nothing of this.

terraform {
  required_version = ">= 1.6"
}

variable "user" {
  description = "The account for SSH."
  type        = string
  default     = "ops"
}

module "hosts" {
  source = "../../modules/existing"
  user   = var.user
  hosts = {
    cache1 = { number = 1, address = "192.0.2.11", rack = "a" }
    cache2 = { number = 2, address = "192.0.2.21", rack = "b" }
    cache3 = { number = 3, address = "192.0.2.12", rack = "a" }
    cache4 = { number = 4, address = "192.0.2.22", rack = "b" }
  }
}

output "hosts" {
  description = "The hosts by name."
  value       = module.hosts.hosts
}

output "access" {
  description = "How to reach them."
  value       = module.hosts.access
}
