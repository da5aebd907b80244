"""Tests of the deployment that need no hosts: templates, inventories, roles, Terraform."""
