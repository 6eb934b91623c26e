"""Read an answer out of a free-form reply: multiple choice, yes/no, VQA answer normalisation."""
