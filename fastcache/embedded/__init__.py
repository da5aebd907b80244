"""The embedded cluster: a whole FastCache as processes of one user on the loopback interface.

plan.py says which processes there should be, start.py knows how each kind is started, process.py and
ports.py know the operating system, record.py remembers what runs, cluster.py puts them in order.
"""
