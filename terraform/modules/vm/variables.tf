variable "name" {
  description = "Name of this set of machines: it names their network, their volumes and their directory here."
  type        = string
  default     = "fastcache"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.name))
    error_message = "The name is small letters, digits and hyphens, a letter first."
  }
}

variable "hosts" {
  description = "The machines by name. The number fixes a machine's address, the rack says what fails together with it."
  type = map(object({
    number = number
    rack   = optional(string, "r1")
  }))

  validation {
    condition     = length(distinct([for host in var.hosts : host.number])) == length(var.hosts)
    error_message = "Two machines have the same number, and so the same address."
  }
  validation {
    condition     = alltrue([for host in var.hosts : host.number >= 1 && host.number <= 240])
    error_message = "Numbers go from 1 to 240."
  }
}

variable "prefix" {
  description = "First three numbers of all addresses; the first address is the libvirt host's."
  type        = string
  default     = "192.168.188"

  validation {
    condition     = can(cidrhost("${var.prefix}.0/24", 1))
    error_message = "Three numbers are wanted, such as 192.168.188."
  }
}

variable "network_mode" {
  description = "nat: machines reach the world through the libvirt host; route: they are routed to; none: they see one another and the host."
  type        = string
  nullable    = false
  default     = "nat"

  validation {
    condition     = contains(["nat", "route", "open", "none"], var.network_mode)
    error_message = "The mode is nat, route, open or none."
  }
}

variable "name_servers" {
  description = "Name servers of the machines; FastCache needs none."
  type        = list(string)
  nullable    = false
  default     = []
}

variable "image" {
  description = "The disk they all start from: a file or an address (HTTP) of a Debian cloud image, qcow2 or raw, with cloud-init."
  type        = string
  nullable    = false
  default     = "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2"
}

variable "kernel" {
  description = "For an image without a boot loader: files of the kernel and its first RAM disk, and the root device. The image boots by itself when null."
  type        = object({ kernel = string, initrd = string, root = string })
  default     = null
}

variable "pool" {
  description = "libvirt's storage pool for the disks."
  type        = string
  nullable    = false
  default     = "default"
}

variable "disk" {
  description = "Size of each disk in GiB; what is not written takes no room."
  type        = number
  nullable    = false
  default     = 10
}

variable "memory" {
  description = "Memory of each machine in MiB."
  type        = number
  nullable    = false
  default     = 2048
}

variable "processors" {
  description = "Virtual processors of each machine."
  type        = number
  nullable    = false
  default     = 2
}

variable "hypervisor" {
  description = "kvm, or qemu where the processor's virtualisation cannot be used (tens of times slower)."
  type        = string
  nullable    = false
  default     = "kvm"

  validation {
    condition     = contains(["kvm", "qemu"], var.hypervisor)
    error_message = "The hypervisor is kvm or qemu."
  }
}

variable "user" {
  description = "The account for SSH, which may use sudo."
  type        = string
  default     = "ops"
}

variable "directory" {
  description = "Directory on this machine for keys, known host keys and the machines' seeds; private to who runs Terraform."
  type        = string
}

variable "proxy_command" {
  description = "The command that carries SSH when the machines' network is not reached from here, such as `ssh -W %h:%p HOST`; none when null."
  type        = string
  default     = null
}

variable "python" {
  description = "The Python that makes keys and seeds on this machine."
  type        = string
  default     = "python3"
}
