"""The public listener: who may send callbacks, how they are read, and how they are answered."""
