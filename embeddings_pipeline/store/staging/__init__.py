"""What is read of staging tables, and which of their rows changed."""
