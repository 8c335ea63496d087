"""The queue in Redis: its keys and scripts, leases, dead letters, and the status of tasks."""
