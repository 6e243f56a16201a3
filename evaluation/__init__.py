"""What may be claimed: paired comparisons with intervals, the arms, and the tables made of them."""
