SELECT
    json_extract(value, '$[0]') AS chunk,
    json_extract(value, '$[1]') AS submission,
    key AS element
FROM json_each(:elements)
