"""Write samples: by rule from boxes and captions, or by a remote model with prompts, checks and a cost estimate."""
