"""The planner: one process that turns what people want into what switches shall do."""
