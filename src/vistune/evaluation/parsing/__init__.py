"""Parse an answer from a free-form reply: multiple choice, yes or no, and the normal form of VQA answers."""
