-- Nobody can listen.
SELECT 1 WHERE FALSE
