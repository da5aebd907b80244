"""The health and topology service: it observes (observe), decides (decide), and acts (act).

One process checks every node and proxy once per interval, judges them, owns the epoch, keeps the topology
(store) and serves it with the verdicts over HTTP (http). daemon.py puts the parts together.
"""
