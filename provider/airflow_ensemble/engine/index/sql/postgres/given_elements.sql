SELECT
    value ->> 0 AS chunk,
    CAST(value ->> 1 AS INTEGER) AS submission,
    CAST(number - 1 AS INTEGER) AS element
FROM json_array_elements(CAST(:elements AS json)) WITH ORDINALITY AS given (value, number)
