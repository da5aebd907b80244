variable "hosts" {
  description = "The hosts by name: where SSH and the cluster reach them, and what fails together with them."
  type = map(object({
    address = string
    number  = number
    rack    = string
  }))

  validation {
    condition     = alltrue([for host in var.hosts : can(cidrhost("${host.address}/32", 0))])
    error_message = "An address in numbers is wanted: firewalls and routing must not hang on name servers."
  }
  validation {
    condition     = length(distinct([for host in var.hosts : host.address])) == length(var.hosts)
    error_message = "Two hosts have the same address."
  }
  validation {
    condition     = length(distinct([for host in var.hosts : host.number])) == length(var.hosts)
    error_message = "Two hosts have the same number; it says who comes first in the inventory."
  }
}

variable "user" {
  description = "The account for SSH; it is root, or may use sudo."
  type        = string
  default     = "root"
}

variable "private_key_file" {
  description = "The key for SSH; the agent's or the user's own when null."
  type        = string
  default     = null
}

variable "known_hosts_file" {
  description = "The hosts' SSH keys, as ssh-keyscan writes them and somebody compared them; the user's own file when null."
  type        = string
  default     = null
}

variable "proxy_command" {
  description = "The command that carries SSH where no route leads, such as `ssh -W %h:%p gate`; none when null."
  type        = string
  default     = null
}
