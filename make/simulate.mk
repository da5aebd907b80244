# The protocol of replication and failover, told in many seeded stories.

STORIES ?= 10000
FIRST_STORY ?= 0

.PHONY: simulate

simulate: dev-tools debug ## Tell and judge stories of failovers (STORIES=10000 FIRST_STORY=0)
	@$(PYTHON) -m tests.simulation.failover_story --seeds $(STORIES) --from $(FIRST_STORY) --jobs $$(nproc)
