AND j.batch = :batch
AND EXISTS (
    SELECT 1 FROM chunks AS c
    WHERE c.id = e.chunk AND c.submission = e.submission AND c.state = 'open'
)
