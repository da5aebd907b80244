"""The cache node as an operator starts it: `fastcache node --config FILE`."""
