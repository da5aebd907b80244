"""The runbook on lab hosts, as root, some ten minutes: `make test-fleet-long`."""
