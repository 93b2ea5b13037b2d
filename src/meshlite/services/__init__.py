"""The three services. They know HTTP and their own tables, never one another."""
