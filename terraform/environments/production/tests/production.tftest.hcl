# Nothing is made by this environment, so nothing need be mocked.

run "hosts_become_what_an_inventory_needs" {
  assert {
    condition     = length(output.hosts) == 4 && output.hosts["cache2"].rack == "b"
    error_message = "Every host is told with its rack."
  }
  assert {
    condition     = output.access.user == "ops" && output.access.proxy_command == null
    error_message = "SSH goes straight to them as the account that was named."
  }
}

run "a_name_is_no_address" {
  command = plan
  module {
    source = "../../modules/existing"
  }
  variables {
    hosts = { a = { number = 1, address = "cache1.example", rack = "a" } }
  }
  expect_failures = [var.hosts]
}

run "an_address_given_twice_is_refused" {
  command = plan
  module {
    source = "../../modules/existing"
  }
  variables {
    hosts = {
      a = { number = 1, address = "192.0.2.1", rack = "a" }
      b = { number = 2, address = "192.0.2.1", rack = "b" }
    }
  }
  expect_failures = [var.hosts]
}
