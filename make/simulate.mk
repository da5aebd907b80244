# What is promised of replication and failover, told in seeded stories and tried on real processes.

STORIES ?= 10000
FIRST_STORY ?= 0

.PHONY: simulate

simulate: dev-tools debug ## Tell and judge stories of failovers and moves (STORIES=10000 FIRST_STORY=0)
	@$(PYTHON) -m tests.simulation.failover_story --seeds $(STORIES) --from $(FIRST_STORY) --jobs $$(nproc)
	@$(PYTHON) -m tests.simulation.moving_story --seeds $(STORIES) --from $(FIRST_STORY) --jobs $$(nproc)

.PHONY: torture

ROUNDS ?=
ROW ?=

torture: dev-tools debug ## Real processes under faults, histories judged; as root (ROUNDS=40 SEED=... ROW=R3 ARGS=...)
	@$(PYTHON) -m tests.torture $(if $(ROW),--row $(ROW)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: bench-failover bench-idle bench-moves bench-replication bench-persistence

bench-failover: release dev-tools ## Kill nodes under load: how long writes wait, and what is lost (ARGS="--kills 100")
	@$(PYTHON) -m bench.failover $(ARGS)

bench-idle: release dev-tools ## What the reference cluster costs when nobody asks it anything
	@$(PYTHON) -m bench.idle $(ARGS)

bench-moves: release dev-tools ## Slots that move: beside Redis' resharding, and what clients notice (ARGS="--sections load")
	@$(PYTHON) -m bench.moves $(ARGS)

bench-replication: release dev-tools ## What a replica costs, strict writes and full copies, beside Redis and Valkey
	@$(PYTHON) -m bench.replication $(ARGS)

bench-persistence: release dev-tools ## Snapshots of a million keys, beside Redis and Valkey
	@$(PYTHON) -m bench.persistence $(ARGS)
