"""The callback listener: who may send callbacks, how a callback is read, and how it is answered."""
