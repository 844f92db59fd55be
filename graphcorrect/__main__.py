"""`python -m graphcorrect`, and `torchrun -m graphcorrect`: the console script."""

from graphcorrect_cli.main import main

main()
