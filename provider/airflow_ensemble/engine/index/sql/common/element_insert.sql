WITH given AS MATERIALIZED (@given_elements)
INSERT INTO elements (chunk, submission, job, element)
SELECT given.chunk, given.submission, :job, given.element FROM given
