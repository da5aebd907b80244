# What would be made, judged without a libvirt: the provider is mocked, and nothing is applied.

mock_provider "libvirt" {}

run "machines_have_addresses_by_their_numbers_and_are_spread_over_racks" {
  command = plan
  variables {
    host_count = 3
    prefix     = "192.0.2"
  }
  assert {
    condition     = [for name in ["vm1", "vm2", "vm3"] : output.hosts[name].address] == ["192.0.2.11", "192.0.2.12", "192.0.2.13"]
    error_message = "Addresses follow from the machines' numbers."
  }
  assert {
    condition     = length(distinct([for host in output.hosts : host.rack])) == 3
    error_message = "Machines are spread over racks."
  }
  assert {
    condition     = output.access.user == "ops" && endswith(output.access.known_hosts_file, "/known_hosts")
    error_message = "Access tells the account and the known host keys."
  }
}

run "a_machine_is_as_its_settings_say" {
  command = plan
  module {
    source = "../../modules/vm"
  }
  variables {
    name         = "set"
    directory    = "keys"
    network_mode = "none"
    hypervisor   = "qemu"
    memory       = 768
    disk         = 5
    hosts        = { one = { number = 7, rack = "a" }, two = { number = 8, rack = "b" } }
  }
  assert {
    condition     = libvirt_domain.machine["one"].memory == 768 && libvirt_domain.machine["one"].type == "qemu"
    error_message = "Memory and hypervisor are those that were asked for."
  }
  assert {
    condition     = libvirt_volume.disk["two"].size == 5 * 1024 * 1024 * 1024
    error_message = "Disks have their size in bytes."
  }
  assert {
    condition     = libvirt_domain.machine["one"].network_interface[0].mac != libvirt_domain.machine["two"].network_interface[0].mac
    error_message = "Every machine has a hardware address of its own."
  }
  assert {
    condition     = !strcontains(terraform_data.seed["one"].input.network, "--gateway")
    error_message = "Where nothing leads out, no gateway is told."
  }
}

run "a_number_given_twice_is_refused" {
  command = plan
  module {
    source = "../../modules/vm"
  }
  variables {
    directory = "keys"
    hosts     = { a = { number = 1 }, b = { number = 1 } }
  }
  expect_failures = [var.hosts]
}
