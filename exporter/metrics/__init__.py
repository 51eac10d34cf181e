"""What is counted and how it is shown: the catalogue, values, the text format, the scrape."""
