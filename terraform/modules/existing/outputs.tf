output "hosts" {
  description = "What an inventory needs to know of each host; the same for every kind of machine."
  value       = var.hosts
}

output "access" {
  description = "How to reach the hosts: user, key, known host keys, and the command that carries the connection."
  value = {
    user             = var.user
    private_key_file = var.private_key_file
    known_hosts_file = var.known_hosts_file
    control_path_dir = null
    proxy_command    = var.proxy_command
    inside           = null
  }
}
