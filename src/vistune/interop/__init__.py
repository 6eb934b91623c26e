"""Read and write model folders of other tools, and load any model folder."""
