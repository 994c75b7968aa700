SELECT value ->> 0 AS id, CAST(value ->> 1 AS INTEGER) AS attempt
FROM json_array_elements(CAST(:attempts AS json))
