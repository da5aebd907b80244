output "hosts" {
  description = "What an inventory needs to know of each host; the same for every kind of machine."
  value = {
    for name, host in terraform_data.host : name => {
      address = "${var.prefix}.${10 + host.output.number}"
      number  = host.output.number
      rack    = var.hosts[name].rack
    }
  }
}

output "access" {
  description = "How to reach the hosts: user, key, known host keys, and the command that carries the connection."
  value = {
    user             = "ops"
    private_key_file = "${local.directory}/id_ed25519"
    known_hosts_file = "${local.directory}/known_hosts"
    control_path_dir = "${local.directory}/cp"
    proxy_command    = "nsenter --net=/run/netns/fastcache-${var.name} socat - TCP:%h:%p"
    inside           = "nsenter --net=/run/netns/fastcache-${var.name}"
  }
}
