SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS attempt
FROM json_each(:attempts)
