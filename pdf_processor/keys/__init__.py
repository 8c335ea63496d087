"""Where an API key waits for its task, or a task for its key."""
