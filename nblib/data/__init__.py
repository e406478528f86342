"""Images and what is known of them: any file to a Dataset, and the batches training sees."""
