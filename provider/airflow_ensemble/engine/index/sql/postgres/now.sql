-- The transaction's time: equal in all of its statements.
CAST(EXTRACT(EPOCH FROM now()) AS DOUBLE PRECISION)
