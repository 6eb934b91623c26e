"""The verbs: each parses, calls one workflow and prints. `vistune.cli` names them and starts them."""
