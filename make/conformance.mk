# Proofs that take longer than `make test` should: other people's suites, and fuzzing for as long as one likes.

INPUTS ?= 10000000
SEED ?=

.PHONY: fuzz test-redis-py test-redis-py-fleet test-conformance-fleet test-without-health

fuzz: rust-toolchain ## Fuzz the parser and every command (INPUTS=10000000 SEED=...)
	@FASTCACHE_FUZZ_INPUTS=$(INPUTS) $(if $(SEED),FASTCACHE_FUZZ_SEED=$(SEED)) \
		cargo test --quiet --release -p fastcache-core --test fuzz -- --nocapture

test-redis-py: dev-tools debug ## redis-py's own test suite against redis-server and the node
	@$(PYTHON) -m tests.conformance.redis_py_suite $(ARGS)

test-redis-py-fleet: dev-tools debug ## redis-py's own test suite against four nodes behind HAProxy and a proxy
	@$(PYTHON) -m tests.conformance.redis_py_suite --target fleet $(ARGS)

test-without-health: dev-tools debug ## Ten minutes of load while the health service is dead
	@FASTCACHE_SECONDS_WITHOUT_HEALTH=600 $(PYTHON) -m pytest -q -s tests/cluster/test_kills.py -k health_service $(ARGS)

test-conformance-fleet: dev-tools debug ## The cases against redis-server and four nodes behind HAProxy and a proxy
	@$(PYTHON) -m pytest -q tests/conformance/test_cases.py tests/conformance/test_zz_stale.py \
		--conformance-target fleet $(ARGS)
