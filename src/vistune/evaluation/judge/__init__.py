"""Grade free-form answers with a judge model."""
