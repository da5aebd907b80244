"""The proxy: its settings, and the way from a file to a process. The lean process is daemon/proxy.py."""
