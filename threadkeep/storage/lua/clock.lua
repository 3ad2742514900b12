-- The time of the server that holds the thread, in microseconds: what revisions and expiries there are counted in.
expect('')
return NOW
