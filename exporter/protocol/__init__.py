"""The callback protocol: the event table, the schemas, the parser and the redaction of secrets."""
