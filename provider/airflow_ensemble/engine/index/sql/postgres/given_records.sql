SELECT
    value ->> 0 AS id,
    CAST(value ->> 1 AS INTEGER) AS attempt,
    value ->> 2 AS token,
    CAST(value ->> 3 AS DOUBLE PRECISION) AS started,
    value ->> 4 AS host,
    CAST(value ->> 5 AS DOUBLE PRECISION) AS duration,
    value ->> 6 AS log,
    value ->> 7 AS products,
    CAST(value ->> 8 AS INTEGER) AS n_empty,
    value ->> 9 AS reason,
    value ->> 10 AS kind,
    value ->> 11 AS detail
FROM json_array_elements(CAST(:records AS json))
