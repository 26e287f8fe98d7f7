"""Before and after a run: probe, plan, study."""
