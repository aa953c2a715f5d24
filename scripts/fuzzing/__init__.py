"""Parts of the fuzz job: seeds, mutations, the readers under test, and the workers that run them."""
