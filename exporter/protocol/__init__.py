"""What the service sends: the event table, schemas, the parser, and how secrets are taken out."""
