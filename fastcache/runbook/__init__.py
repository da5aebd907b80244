"""The runbook: what an operator does to a fleet, as plain functions; fabfile.py gives them names.

fleet.py is the cluster as the inventory describes it, hands.py what a task may do to the world, ssh.py how
that is done for real. gate.py says whether the cluster is well, operation.py carries steps out: lock,
audit, gate, resume. The tasks are beside them: status, rolling, handover, snapshots, playbooks, support,
chaos.
"""
