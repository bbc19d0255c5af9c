# Makes a C string literal of a text, a line for each of its lines.
s/[\\"]/\\&/g
s/^/"/
s/$/\\n"/
