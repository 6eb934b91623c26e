"""Teachers: the rule teacher, and remote language models with their prompts, replies and cost estimate."""
