"""What is counted: the catalogue of all families, how numbers add up, the numbers of this process."""
