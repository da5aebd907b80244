variable "name" {
  description = "Name of the lab: it names its network namespace and its directory."
  type        = string
  default     = "lab"

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{0,7}$", var.name))
    error_message = "The lab's name is up to 8 small letters and digits, a letter first."
  }
}

variable "prefix" {
  description = "First three numbers of all addresses; 198.18.0.0/15 is kept for tests (RFC 2544)."
  type        = string
  default     = "198.18.0"

  validation {
    condition     = can(cidrhost("${var.prefix}.0/24", 1))
    error_message = "Three numbers are wanted, such as 198.18.0."
  }
}

variable "hosts" {
  description = "The hosts by name. The number fixes a host's address, the rack says what fails together with it."
  type = map(object({
    number = number
    rack   = optional(string, "r1")
  }))

  validation {
    condition     = length(distinct([for host in var.hosts : host.number])) == length(var.hosts)
    error_message = "Two hosts have the same number, and so the same address."
  }
  validation {
    condition     = alltrue([for host in var.hosts : host.number >= 1 && host.number <= 240])
    error_message = "Numbers go from 1 to 240."
  }
}

variable "suite" {
  description = "Debian release of the hosts."
  type        = string
  default     = "bookworm"

  validation {
    condition     = contains(["bookworm", "trixie"], var.suite)
    error_message = "Debian 12 (bookworm) and 13 (trixie) are known."
  }
}

variable "disk" {
  description = "Size of each host's disk; it is sparse, so only what is written counts."
  type        = string
  default     = "4G"
}

variable "root" {
  description = "Directory on this machine for base images and labs."
  type        = string
  default     = "/var/lib/fastcache-lab"
}
