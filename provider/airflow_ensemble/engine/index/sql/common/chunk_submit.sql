UPDATE chunks SET submission = submission + 1, state = 'open' WHERE id = :chunk
