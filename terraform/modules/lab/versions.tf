# Built-in provider only (terraform_data): nothing is fetched, so it works offline, with Terraform and with OpenTofu.
terraform {
  required_version = ">= 1.6"
}
