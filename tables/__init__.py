"""What is remembered per member, its bytes, and the local store that holds them."""
