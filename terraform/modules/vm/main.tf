# Virtual machines of one libvirt host: each with a disk of its own over one image, a fixed address, and keys that were made
# before it: what cloud-init finds on its seed, so that nobody has to trust the first SSH key that answers.
#
# Seeds are made by seed.py and not by the provider's cloud-init resource: that would keep the hosts' private keys in
# Terraform's state.

locals {
  directory = abspath(var.directory)
  address   = { for name, host in var.hosts : name => "${var.prefix}.${10 + host.number}" }
  mac       = { for name, host in var.hosts : name => format("52:54:00:%s:%02x", join(":", regex("^(..)(..)", md5(var.name))), host.number) }
  seed      = ["--directory", local.directory, "--user", var.user]
}

resource "libvirt_network" "machines" {
  name      = var.name
  mode      = var.network_mode
  addresses = ["${var.prefix}.0/24"]
  autostart = true
  # Addresses are on the seeds, so nobody needs to be asked for them.
  dhcp {
    enabled = false
  }
  dns {
    enabled = false
  }
}

resource "libvirt_volume" "image" {
  name   = "${var.name}-image"
  pool   = var.pool
  source = var.image
}

resource "libvirt_volume" "kernel" {
  for_each = var.kernel == null ? {} : { kernel = var.kernel.kernel, initrd = var.kernel.initrd }
  name     = "${var.name}-${each.key}"
  pool     = var.pool
  source   = each.value
  format   = "raw"
}

resource "libvirt_volume" "disk" {
  for_each       = var.hosts
  name           = "${var.name}-${each.key}"
  pool           = var.pool
  base_volume_id = libvirt_volume.image.id
  size           = var.disk * 1024 * 1024 * 1024
}

resource "terraform_data" "seed" {
  for_each = var.hosts

  # Provisioners that destroy may use nothing but the resource itself, so all they need is kept in it.
  input = {
    program = abspath("${path.module}/seed.py")
    python  = var.python
    options = join(" ", local.seed)
    name    = each.key
    file    = "${local.directory}/hosts/${each.key}/seed.iso"
    network = join(" ", concat(
      ["--address", local.address[each.key], "--mac", local.mac[each.key]],
      var.network_mode == "none" ? [] : ["--gateway", "${var.prefix}.1"],
      flatten([for server in var.name_servers : ["--name-server", server]]),
    ))
  }
  triggers_replace = [local.directory, var.user, each.key, local.address[each.key], local.mac[each.key], var.network_mode, var.name_servers]

  provisioner "local-exec" {
    command = "${self.input.python} -B ${self.input.program} ${self.input.options} make ${self.input.name} ${self.input.network}"
    quiet   = true
  }

  provisioner "local-exec" {
    when    = destroy
    command = "${self.output.python} -B ${self.output.program} ${self.output.options} forget ${self.output.name}"
    quiet   = true
  }
}

resource "libvirt_volume" "seed" {
  for_each = var.hosts
  name     = "${var.name}-${each.key}-seed.iso"
  pool     = var.pool
  source   = terraform_data.seed[each.key].output.file
  # What libvirt finds it to be; another word here, and each plan would replace the machine.
  format = "iso"

  lifecycle {
    replace_triggered_by = [terraform_data.seed[each.key].id]
  }
}

resource "libvirt_domain" "machine" {
  for_each  = var.hosts
  name      = "${var.name}-${each.key}"
  type      = var.hypervisor
  memory    = var.memory
  vcpu      = var.processors
  autostart = true

  kernel = var.kernel == null ? null : libvirt_volume.kernel["kernel"].id
  initrd = var.kernel == null ? null : libvirt_volume.kernel["initrd"].id
  cmdline = var.kernel == null ? [] : [
    # As the provider reads it back: words without a value apart. In one map each plan would replace the machine.
    { root = var.kernel.root, console = "ttyS0" },
    { _ = "rw quiet" },
  ]

  cpu {
    mode = var.hypervisor == "kvm" ? "host-passthrough" : "maximum"
  }
  disk {
    volume_id = libvirt_volume.disk[each.key].id
  }
  disk {
    volume_id = libvirt_volume.seed[each.key].id
  }
  network_interface {
    network_id = libvirt_network.machines.id
    mac        = local.mac[each.key]
  }
  console {
    type        = "pty"
    target_type = "serial"
    target_port = "0"
  }
}

# A machine is there once it answers under the key that was made for it, and has done what its seed says.
resource "terraform_data" "answers" {
  for_each         = var.hosts
  triggers_replace = [libvirt_domain.machine[each.key].id]

  provisioner "local-exec" {
    command = join(" ", concat(
      [var.python, "-B", abspath("${path.module}/seed.py")], local.seed,
      var.proxy_command == null ? [] : ["--proxy-command", "'${var.proxy_command}'"],
      ["wait", each.key, local.address[each.key]],
    ))
    quiet = true
  }
}
