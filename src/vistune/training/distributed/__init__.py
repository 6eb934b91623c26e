"""Several processes of one run: process groups, FSDP2 and DDP, the watchdog."""
