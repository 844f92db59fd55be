"""What stands beside training: the paper's rows, what a recipe costs, how fast it runs here."""
