"""Images and what is known about them: from any file to a Dataset, and the batches that training sees."""
