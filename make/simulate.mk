# What is promised of replication and failover, told in seeded stories and tried on real processes.

STORIES ?= 10000
FIRST_STORY ?= 0

.PHONY: simulate

simulate: dev-tools debug ## Tell and judge stories of failovers (STORIES=10000 FIRST_STORY=0)
	@$(PYTHON) -m tests.simulation.failover_story --seeds $(STORIES) --from $(FIRST_STORY) --jobs $$(nproc)

.PHONY: torture

SECONDS ?= 300
RUNS ?= 1

torture: dev-tools debug ## Real processes under faults, histories judged; as root (SECONDS=300 RUNS=1 SEED=...)
	@$(PYTHON) -m tests.torture --seconds $(SECONDS) --runs $(RUNS) $(if $(SEED),--seed $(SEED)) $(ARGS)
