"""What training hears: clips, batches, development trials."""
