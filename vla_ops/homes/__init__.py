"""VLA_OPS_HOME in a store: each machine works in a copy; what a step reads is brought before it, what it made is taken there after it."""
