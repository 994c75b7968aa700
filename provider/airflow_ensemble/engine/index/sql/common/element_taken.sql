WITH given AS MATERIALIZED (@given_elements)
SELECT e.chunk, e.submission, e.job
FROM given
JOIN elements AS e ON e.chunk = given.chunk AND e.submission = given.submission
ORDER BY given.element
