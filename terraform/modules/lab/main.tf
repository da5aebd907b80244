# Lab hosts: each a systemd-nspawn machine with its own systemd, disk, address and SSH host key.
#
# The work is done by the program in lab/ (`python3 -m lab`), which is idempotent. Terraform knows which hosts there are
# to be, runs it once for each, and once more when a host goes.

locals {
  lab = [
    "--name", var.name, "--prefix", var.prefix, "--suite", var.suite, "--disk", var.disk, "--root", var.root,
  ]
  directory = "${var.root}/labs/${var.name}"
}

resource "terraform_data" "host" {
  for_each = var.hosts

  # Provisioners that destroy may use nothing but the resource itself, so all they need is kept in it.
  input = {
    module  = abspath(path.module)
    options = join(" ", local.lab)
    name    = each.key
    number  = each.value.number
  }
  triggers_replace = [var.name, var.prefix, var.suite, var.root, each.value.number]

  provisioner "local-exec" {
    command     = "python3 -B -m lab ${self.input.options} up ${self.input.name}:${self.input.number}"
    working_dir = self.input.module
    quiet       = true
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "python3 -B -m lab ${self.output.options} destroy ${self.output.name}"
    working_dir = self.output.module
    quiet       = true
  }
}

# terraform_data cannot see that a host was lost behind its back; this at least says so, and what helps.
check "hosts_are_there" {
  assert {
    condition = alltrue([
      for name, host in terraform_data.host : fileexists("${local.directory}/hosts/${name}/host.json")
    ])
    error_message = "Some lab hosts are gone: terraform apply -replace='ADDRESS OF THE HOST' makes them again."
  }
}
