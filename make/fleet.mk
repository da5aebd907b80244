# Deployment to hosts: the lab on this machine, and the bundle that hosts of your own are installed from.

#: Terraform or OpenTofu (TERRAFORM=tofu); the inventory and the runbook ask the same one.
TERRAFORM ?= $(shell command -v terraform || command -v tofu)
export TERRAFORM
LAB := terraform/environments/lab
HOSTS ?= 3
SUITE ?= bookworm
#: Debian packages that hosts without a network get from the bundle.
PACKAGES := haproxy nftables keepalived etcd-server prometheus prometheus-alertmanager prometheus-node-exporter
#: --debug packs the debug build: quicker to build, slower to run.
BUNDLE ?=

.PHONY: fleet fleet-down fleet-verify bundle lint-fleet

bundle: dev-tools | rust-toolchain ## Pack all that hosts need for an installation without a network (dist/bundle)
	@$(PYTHON) make/bundle.py --suite $(SUITE) $(PACKAGES:%=--package %) $(BUNDLE)

fleet: bundle ## Make lab hosts on this machine and deploy a cluster to them (HOSTS=3 SUITE=bookworm; needs root)
	@[ -n "$(TERRAFORM)" ] || { echo "Terraform or OpenTofu is needed, and neither is on the PATH."; exit 1; }
	@unset TF_CLI_CONFIG_FILE; $(TERRAFORM) -chdir=$(LAB) init -input=false > .venv/terraform.log || { cat .venv/terraform.log; exit 1; }
	@unset TF_CLI_CONFIG_FILE; $(TERRAFORM) -chdir=$(LAB) apply -input=false -auto-approve -compact-warnings \
		-var host_count=$(HOSTS) -var suite=$(SUITE)
	@PATH="$(CURDIR)/.venv/bin:$$PATH" ANSIBLE_STDOUT_CALLBACK=fastcache_progress ansible-playbook site.yml
	@PATH="$(CURDIR)/.venv/bin:$$PATH" ansible-playbook playbooks/how_to_talk.yml > .venv/how_to_talk.log || { cat .venv/how_to_talk.log; exit 1; }
	@cat dist/how_to_talk.txt

fleet-verify: dev-tools ## Write and read back through every node, proxy and balancer of the lab
	@PATH="$(CURDIR)/.venv/bin:$$PATH" ansible-playbook playbooks/verify.yml

fleet-down: ## Take the lab away; nothing stays but the base image
	@if [ -d $(LAB)/.terraform ]; then unset TF_CLI_CONFIG_FILE; $(TERRAFORM) -chdir=$(LAB) destroy -input=false -auto-approve; fi

lint-fleet: dev-tools ## Judge playbooks, roles and Terraform
	@PATH="$(CURDIR)/.venv/bin:$$PATH" ansible-lint
	@PATH="$(CURDIR)/.venv/bin:$$PATH" yamllint .
	@[ -z "$(TERRAFORM)" ] || $(TERRAFORM) fmt -check -recursive terraform

.PHONY: molecule
ROLE ?= fastcache_node
molecule: bundle ## Test one role on a lab host of its own (ROLE=fastcache_node; needs root)
	@cd roles/$(ROLE) && PATH="$(CURDIR)/.venv/bin:$$PATH" molecule test

.PHONY: molecule-fleet
SCENARIO ?= $(sort $(notdir $(patsubst %/,%,$(wildcard molecule/*/))))
molecule-fleet: bundle ## Test the whole on lab hosts: default, ha, upgrade, airgap, or all (SCENARIO=ha; needs root)
	@cd terraform/modules/lab && python3 -B -m lab --suite $(SUITE) base
	@for scenario in $(SCENARIO); do \
		[ $$scenario = airgap ] && apart="unshare --net" || apart=; \
		SUITE=$(SUITE) PATH="$(CURDIR)/.venv/bin:$$PATH" $$apart molecule test -s $$scenario || exit 1; \
	done

.PHONY: bench-deploy
bench-deploy: dev-tools debug ## What a deployment to 3 and to 10 lab hosts costs (needs root, a quarter of an hour)
	@$(PYTHON) -m bench.deploy $(ARGS)

.PHONY: test-fleet
test-fleet: dev-tools debug ## From bare lab hosts to a cluster that is upgraded under load (needs root, a quarter of an hour)
	@if missing=$$($(PYTHON) -m tests.fleet.lab); then \
		echo "==> Tests: fleet"; $(PYTHON) -m pytest -q tests/fleet $(ARGS); \
	elif [ -n "$$missing" ]; then echo "==> Tests: fleet is left out: $$missing"; else exit 1; fi

.PHONY: test-fleet-long
test-fleet-long: dev-tools debug ## The runbook and the reference cluster on lab hosts (needs root, an hour)
	@echo "==> Tests: fleet_long"; $(PYTHON) -m pytest -q tests/fleet_long $(ARGS)

.PHONY: test-vm
test-vm: dev-tools debug ## Virtual machines by libvirt and Terraform, and a deployment to them (needs root, a while)
	@echo "==> Tests: vm"; $(PYTHON) -m pytest -q tests/vm $(ARGS)
