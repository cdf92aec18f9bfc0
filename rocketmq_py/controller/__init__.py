"""The controller: decides which replica of a broker group is its master, and remembers it on several machines."""
