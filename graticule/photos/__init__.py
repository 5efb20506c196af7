"""What is known of photos: the table, pixels, times, quality, drives, splits, and what leaks between them."""
