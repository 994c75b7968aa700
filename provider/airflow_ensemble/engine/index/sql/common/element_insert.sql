INSERT INTO elements (chunk, submission, job, element)
VALUES (:chunk, :submission, :job, :element)
