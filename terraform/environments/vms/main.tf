# Virtual machines vm1, vm2, ... of a libvirt host, spread over racks. The inventory in inventories/vms is made of its outputs.
#
#     terraform -chdir=terraform/environments/vms init
#     terraform -chdir=terraform/environments/vms apply -var host_count=3
#     ansible-playbook -i inventories/vms site.yml
#
# Machines of several libvirt hosts: one copy of this environment for each, with a `uri` and a `prefix` of its own.

terraform {
  required_version = ">= 1.6"
  backend "local" {}
  required_providers {
    libvirt = {
      source = "dmacvicar/libvirt"
    }
  }
}

variable "uri" {
  description = "The libvirt host: qemu:///system is this machine, qemu+ssh://USER@HOST/system another."
  type        = string
  default     = "qemu:///system"
}

variable "host_count" {
  description = "How many machines."
  type        = number
  default     = 3
}

variable "rack_count" {
  description = "Over how many racks they are spread."
  type        = number
  default     = 3
}

variable "name" {
  description = "Name of this set of machines; several can stand side by side."
  type        = string
  default     = "fastcache"
}

variable "prefix" {
  description = "First three numbers of all addresses; every set needs its own."
  type        = string
  default     = "192.168.188"
}

variable "settings" {
  description = "What the module is told besides, by name: image, memory, processors, disk, pool, network_mode, hypervisor ..."
  type = object({
    image         = optional(string)
    kernel        = optional(object({ kernel = string, initrd = string, root = string }))
    memory        = optional(number)
    processors    = optional(number)
    disk          = optional(number)
    pool          = optional(string)
    network_mode  = optional(string)
    name_servers  = optional(list(string))
    hypervisor    = optional(string)
    proxy_command = optional(string)
    directory     = optional(string)
  })
  default = {}
}

provider "libvirt" {
  uri = var.uri
}

module "vm" {
  source = "../../modules/vm"
  name   = var.name
  prefix = var.prefix
  hosts = {
    for number in range(1, var.host_count + 1) : "vm${number}" => {
      number = number
      rack   = "r${(number - 1) % var.rack_count + 1}"
    }
  }
  directory     = coalesce(var.settings.directory, "${path.module}/.machines")
  image         = var.settings.image
  kernel        = var.settings.kernel
  memory        = var.settings.memory
  processors    = var.settings.processors
  disk          = var.settings.disk
  pool          = var.settings.pool
  network_mode  = var.settings.network_mode
  name_servers  = var.settings.name_servers
  hypervisor    = var.settings.hypervisor
  proxy_command = var.settings.proxy_command
}

output "hosts" {
  description = "The hosts by name."
  value       = module.vm.hosts
}

output "access" {
  description = "How to reach them."
  value       = module.vm.access
}
