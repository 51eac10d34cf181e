"""Mutation tests of the pure core: a unit test must find each small fault that is inserted on purpose."""
