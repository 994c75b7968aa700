-- Until the server has looked at a table that grew at once, it takes it for an empty one.
ANALYZE simulations
