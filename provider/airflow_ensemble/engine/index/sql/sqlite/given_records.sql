SELECT
    json_extract(value, '$[0]') AS id,
    json_extract(value, '$[1]') AS attempt,
    json_extract(value, '$[2]') AS token,
    json_extract(value, '$[3]') AS started,
    json_extract(value, '$[4]') AS host,
    json_extract(value, '$[5]') AS duration,
    json_extract(value, '$[6]') AS log,
    json_extract(value, '$[7]') AS products,
    json_extract(value, '$[8]') AS n_empty,
    json_extract(value, '$[9]') AS reason,
    json_extract(value, '$[10]') AS kind,
    json_extract(value, '$[11]') AS detail
FROM json_each(:records)
