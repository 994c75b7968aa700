UPDATE chunks SET state = 'settled' WHERE id = :chunk
