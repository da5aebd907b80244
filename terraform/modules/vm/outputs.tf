output "hosts" {
  description = "What an inventory needs to know of each host; the same for every kind of machine."
  value = {
    for name, host in var.hosts : name => {
      address = local.address[name]
      number  = host.number
      rack    = host.rack
    }
  }
  # Who reads it finds machines that answer.
  depends_on = [terraform_data.answers]
}

output "access" {
  description = "How to reach the hosts: user, key, known host keys, and the command that carries the connection."
  value = {
    user             = var.user
    private_key_file = "${local.directory}/id_ed25519"
    known_hosts_file = "${local.directory}/known_hosts"
    control_path_dir = "${local.directory}/cp"
    proxy_command    = var.proxy_command
    inside           = null
  }
}
