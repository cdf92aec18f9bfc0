"""What a slave costs, and how fast one catches up; and the same of Apache's brokers."""
