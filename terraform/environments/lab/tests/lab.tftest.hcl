# Real lab hosts of a lab of their own; `terraform test` takes them away again. Needs root.

variables {
  name   = "tftest"
  prefix = "198.18.9"
}

run "two_hosts_come_up" {
  variables {
    host_count = 2
  }
  assert {
    condition     = output.hosts["h1"].address == "198.18.9.11" && output.hosts["h2"].address == "198.18.9.12"
    error_message = "Addresses follow from the hosts' numbers."
  }
  assert {
    condition     = output.hosts["h1"].rack != output.hosts["h2"].rack
    error_message = "Hosts are spread over racks."
  }
}

run "a_third_is_added_and_the_others_stay" {
  variables {
    host_count = 3
  }
  assert {
    condition     = length(output.hosts) == 3
    error_message = "Three hosts are wanted."
  }
}

run "a_number_given_twice_is_refused" {
  command = plan
  module {
    source = "../../modules/lab"
  }
  variables {
    hosts = { a = { number = 1 }, b = { number = 1 } }
  }
  expect_failures = [var.hosts]
}
