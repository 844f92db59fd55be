"""Images, masks, probabilities and names of classes as people's tools write them."""
