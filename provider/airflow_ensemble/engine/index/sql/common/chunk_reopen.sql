UPDATE chunks SET state = 'open' WHERE id = :chunk
