"""Read images, ground truth and proposals from files and make batches of them."""
